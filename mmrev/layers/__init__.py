"""Layers that need torch alone."""
from .drop_path import DropPath

__all__ = ['DropPath']
