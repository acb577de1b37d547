"""Blocks that several models share and that build on mmcv."""
from . import norms  # noqa: F401
from .mbconv import MBConv, SqueezeExcite

__all__ = ['MBConv', 'SqueezeExcite']
