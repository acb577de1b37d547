"""Convolution and batch normalization."""
from torch import Tensor, nn

from .fused.conv_norm import can_fold, folded, is_product, product
from .norm_act import norm_act


def convolve(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """``conv(x)``, as a matrix product where that is faster on a CPU.

    Shape:
        Input: ``(B, C, H, W)``; output: that of ``conv``.
    """
    if is_product(x, conv):
        return product(x, conv)
    return conv(x)


def conv_norm(x: Tensor, conv: nn.Conv2d, norm: nn.Module) -> Tensor:
    """``norm(conv(x))``: the same up to rounding, faster on a CPU.

    The convolution is that of :func:`convolve`. Without a gradient, a batch norm with running statistics is folded into
    the convolution where the output is large.

    Args:
        x: Input.
        conv: The convolution.
        norm: Any norm.

    Shape:
        Input: ``(B, C, H, W)``; output: that of ``conv``.
    """
    if can_fold(x, conv, norm):
        return folded(x, conv, norm)
    return norm_act(convolve(x, conv), norm, None)
