"""Layers that need torch alone."""
from .drop_path import DropPath
from .inplace_abn import ABN, BatchNormAct, InPlaceABN, InPlaceABNSync, convert_batchnorm, to_batchnorm
from .max_pool import MaxPool3x3, max_pool3x3, max_pool_tokens
from .norm_act import norm_act

__all__ = ['ABN', 'BatchNormAct', 'DropPath', 'InPlaceABN', 'InPlaceABNSync', 'MaxPool3x3', 'convert_batchnorm',
           'max_pool3x3', 'max_pool_tokens', 'norm_act', 'to_batchnorm']
