"""Layers that need torch alone."""
from .drop_path import DropPath
from .inplace_abn import ABN, InPlaceABN, InPlaceABNSync
from .norm_act import norm_act

__all__ = ['ABN', 'DropPath', 'InPlaceABN', 'InPlaceABNSync', 'norm_act']
