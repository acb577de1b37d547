"""Layers that need torch alone."""
from .drop_path import DropPath
from .inplace_abn import ABN, BatchNormAct, InPlaceABN, InPlaceABNSync, convert_batchnorm, to_batchnorm
from .norm_act import norm_act

__all__ = ['ABN', 'BatchNormAct', 'DropPath', 'InPlaceABN', 'InPlaceABNSync', 'convert_batchnorm', 'norm_act',
           'to_batchnorm']
