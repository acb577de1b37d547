"""Blocks that several models share and that build on mmcv."""
from . import norms  # noqa: F401
from .mbconv import ConvNormAct, MBConv, SqueezeExcite

__all__ = ['ConvNormAct', 'MBConv', 'SqueezeExcite']
