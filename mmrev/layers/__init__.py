"""Layers that need torch alone."""
from .drop_path import DropPath
from .inplace_abn import ABN, InPlaceABN, InPlaceABNSync

__all__ = ['ABN', 'DropPath', 'InPlaceABN', 'InPlaceABNSync']
