"""Blocks that several models share and that build on mmcv."""
from .mbconv import MBConv, SqueezeExcite

__all__ = ['MBConv', 'SqueezeExcite']
