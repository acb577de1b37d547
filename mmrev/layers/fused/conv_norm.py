"""A convolution and its batch norm, in the forms that a CPU evaluates soonest."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmrev import compat

from .guard import is_any_watched, is_staged, is_watched, needs_gradient

_FEW_PIXELS = 2048  # of the whole batch; with more of them oneDNN's convolution is as fast or faster
_MANY_VALUES = 2**18  # of the output; with fewer of them the norm takes less time than its folding


def convolve(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """``conv(x)``, as a product of matrices where it is a 1x1 convolution of few pixels on a CPU, channels last.

    For those oneDNN lays the weights out anew at every call, in forward and backward, which takes longer than the
    convolution itself. What traces, exports, compiles or watches ``conv`` sees it as it is.

    Shape:
        Input: ``(B, C, H, W)``; output: that of ``conv``.
    """
    if not (_is_ours(x, conv) and _is_product(x, conv)):
        return conv(x)
    pixels = x[:, :, ::conv.stride[0], ::conv.stride[1]].permute(0, 2, 3, 1)  # (B, H, W, C)
    return F.linear(pixels, conv.weight.flatten(1), conv.bias).permute(0, 3, 1, 2)


def conv_norm(x: Tensor, conv: nn.Conv2d, norm: nn.Module) -> Tensor:
    """``norm(conv(x))``: the same to rounding, sooner on a CPU.

    The convolution is :func:`convolve`'s. Without a gradient and where the output is large, a batch norm with running
    statistics goes into the weights, or, if those are larger still, over the output in place. What traces, exports,
    compiles or watches the modules sees them as they are, and so does autocast.

    Args:
        x: Input.
        conv: The convolution.
        norm: Any norm.

    Shape:
        Input: ``(B, C, H, W)``; output: that of ``conv``.
    """
    values = conv.out_channels * _pixels(x, conv) if _is_ours(x, conv) else 0
    if (values < _MANY_VALUES or not _is_affine(norm, x.dtype) or is_watched(norm)
            or needs_gradient(x, conv.weight, conv.bias, norm.weight, norm.bias)):
        return norm(convolve(x, conv))
    scale = (norm.running_var + norm.eps).rsqrt_().mul_(norm.weight.detach())
    shift = torch.addcmul(norm.bias, norm.running_mean, scale, value=-1)
    if conv.weight.numel() <= values and not _is_product(x, conv):
        bias = shift if conv.bias is None else torch.addcmul(shift, conv.bias, scale)
        return conv._conv_forward(x, conv.weight * scale[:, None, None, None], bias)
    y = convolve(x, conv)
    return torch.addcmul(shift[:, None, None], y, scale[:, None, None], out=y)


def _is_ours(x: Tensor, conv: nn.Conv2d) -> bool:
    """Whether other forms may take the convolution's place."""
    return (not is_staged() and x.device.type == 'cpu' and type(conv) is nn.Conv2d and not is_watched(conv)
            and not is_any_watched() and not compat.is_autocast_enabled('cpu'))


def _is_affine(norm: nn.Module, dtype: torch.dtype) -> bool:
    """Whether it is a batch norm of this type with the same scale and shift whatever the batch."""
    return (type(norm) is nn.BatchNorm2d and not norm.training and norm.affine and norm.running_mean is not None
            and norm.weight.dtype == dtype)


def _is_product(x: Tensor, conv: nn.Conv2d) -> bool:
    """Whether it is a 1x1 convolution of so few pixels that it is best multiplied out."""
    return (conv.kernel_size == (1, 1) and conv.padding == (0, 0) and conv.groups == 1
            and 0 < _pixels(x, conv) <= _FEW_PIXELS and x.is_contiguous(memory_format=torch.channels_last))


def _pixels(x: Tensor, conv: nn.Conv2d) -> int:
    """Of the output, the whole batch's, where padding keeps the size."""
    return x.shape[0] * -(-x.shape[2] // conv.stride[0]) * -(-x.shape[3] // conv.stride[1])
