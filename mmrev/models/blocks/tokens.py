"""Norms of tokens, and how transformers are initialized."""
from mmcv.cnn import build_norm_layer
from torch import nn

from ...layers import DropPath, PreNorm

TRANSFORMER_INIT = (dict(type='TruncNormal', layer='Linear', std=0.02),
                    dict(type='Constant', layer='LayerNorm', val=1.))


def token_norm(norm_cfg: dict, channels: int) -> nn.Module:
    """A norm of tokens ``(B, ..., C)`` from a config such as ``dict(type='LN', eps=1e-6)``.

    Raises:
        ValueError: If the norm is not over the last dimension.
    """
    norm = build_norm_layer(norm_cfg, channels)[1]
    if not isinstance(norm, (nn.LayerNorm, getattr(nn, 'RMSNorm', nn.LayerNorm))):
        raise ValueError(f"`norm_cfg` must name a norm of tokens, such as dict(type='LN'), got {norm_cfg}")
    return norm


def pre_norm(norm_cfg: dict, channels: int, layer: nn.Module, drop_path_rate: float) -> PreNorm:
    """``drop_path(layer(norm(x)))``."""
    return PreNorm(token_norm(norm_cfg, channels), layer, DropPath(drop_path_rate))
