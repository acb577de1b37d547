"""A convolution and its batch norm in the forms that are fastest on a CPU."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmrev import compat

from .guard import may_fuse, needs_gradient

_FEW_PIXELS = 2048  # of the whole batch; with more of them oneDNN's convolution is at least as fast
_MANY_VALUES = 2**18  # of the output; with fewer of them the norm takes less time than its folding


def is_product(x: Tensor, conv: nn.Conv2d) -> bool:
    """Whether it is a 1x1 convolution of few pixels on a CPU, channels last, that :func:`product` may compute."""
    return _is_known(x, conv) and _is_small_1x1(x, conv)


def product(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A 1x1 convolution as a matrix product.

    oneDNN reorders the weights at every call, in forward and backward. With few pixels that takes longer than the
    convolution itself.
    """
    pixels = x[:, :, ::conv.stride[0], ::conv.stride[1]].permute(0, 2, 3, 1)  # (B, H, W, C)
    return F.linear(pixels, conv.weight.flatten(1), conv.bias).permute(0, 3, 1, 2)


def can_fold(x: Tensor, conv: nn.Conv2d, norm: nn.Module) -> bool:
    """Whether :func:`folded` may compute ``norm(conv(x))`` and is faster: no gradient, a large output."""
    return (_is_known(x, conv) and conv.out_channels * _pixels(x, conv) >= _MANY_VALUES
            and _is_affine(norm, x.dtype) and may_fuse(norm)
            and not needs_gradient(x, conv.weight, conv.bias, norm.weight, norm.bias))


def folded(x: Tensor, conv: nn.Conv2d, norm: nn.Module) -> Tensor:
    """Fold the norm into the weights of the convolution or, if those are larger, apply it to the output in place."""
    scale = (norm.running_var + norm.eps).rsqrt_().mul_(norm.weight.detach())
    shift = torch.addcmul(norm.bias, norm.running_mean, scale, value=-1)
    small_1x1 = _is_small_1x1(x, conv)
    if conv.weight.numel() <= conv.out_channels * _pixels(x, conv) and not small_1x1:
        bias = shift if conv.bias is None else torch.addcmul(shift, conv.bias, scale)
        return conv._conv_forward(x, conv.weight * scale[:, None, None, None], bias)
    y = product(x, conv) if small_1x1 else conv(x)
    return torch.addcmul(shift[:, None, None], y, scale[:, None, None], out=y)


def _is_known(x: Tensor, conv: nn.Conv2d) -> bool:
    return (type(conv) is nn.Conv2d and may_fuse(conv) and x.device.type == 'cpu'
            and not compat.is_autocast_enabled('cpu'))


def _is_affine(norm: nn.Module, dtype: torch.dtype) -> bool:
    """Whether it is a batch norm of this type whose scale and shift do not depend on the batch."""
    return (type(norm) is nn.BatchNorm2d and not norm.training and norm.affine and norm.running_mean is not None
            and norm.weight.dtype == dtype)


def _is_small_1x1(x: Tensor, conv: nn.Conv2d) -> bool:
    """Whether it is a 1x1 convolution of so few pixels that a matrix product is faster."""
    return (conv.kernel_size == (1, 1) and conv.padding == (0, 0) and conv.groups == 1
            and 0 < _pixels(x, conv) <= _FEW_PIXELS and x.is_contiguous(memory_format=torch.channels_last))


def _pixels(x: Tensor, conv: nn.Conv2d) -> int:
    """Pixels of the output, over the whole batch, if padding keeps the size."""
    return x.shape[0] * -(-x.shape[2] // conv.stride[0]) * -(-x.shape[3] // conv.stride[1])
