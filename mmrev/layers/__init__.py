"""Layers that require only PyTorch.

Each file shows a formula; :mod:`mmrev.layers.fused` has forms that are faster or store less for backward.
"""
from typing import Any

from .attention import MultiheadAttention, PoolingAttention, WindowAttention
from .conv_norm import conv_norm, convolve
from .drop_path import DropPath
from .inplace_abn import ABN, BatchNormAct, InPlaceABN, InPlaceABNSync
from .max_pool import MaxPool3x3, max_pool3x3, max_pool_tokens
from .mlp import MLP
from .norm_act import norm_act
from .patch_embed import PatchEmbed, PatchMerging, resize_pos_embed
from .pre_norm import PreNorm
from .token_pooling import TokenPooling

__all__ = ['ABN', 'BatchNormAct', 'DropPath', 'InPlaceABN', 'InPlaceABNSync', 'MLP', 'MaxPool3x3', 'MultiheadAttention',
           'PatchEmbed', 'PatchMerging', 'PoolingAttention', 'PreNorm', 'TokenPooling', 'WindowAttention', 'conv_norm',
           'convolve', 'max_pool3x3', 'max_pool_tokens', 'norm_act', 'resize_pos_embed']


def __getattr__(name: str) -> Any:
    """`convert_batchnorm` and `to_batchnorm`, which are `mmrev.surgery`'s since 0.2."""
    if name in ('convert_batchnorm', 'to_batchnorm'):
        from mmrev import surgery
        return getattr(surgery, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
