"""3x3 max pooling that stores a small index for backward and is fast on a CPU."""
from contextlib import contextmanager
from typing import Iterator, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .guard import may_fuse, needs_gradient
from .plain_gradients import needs_plain_gradients

aten = torch.ops.aten
_INT16_MAX = torch.iinfo(torch.int16).max
_SMALL = 2**16  # values
_BLOCK, _BLOCK_ON_GPU = 2**17, 2**23  # values of an index


def can_fuse(x: Tensor) -> bool:
    """Whether :func:`fused_max_pool3x3` supports the device and may replace PyTorch's operator."""
    return may_fuse() and x.device.type in ('cpu', 'cuda', 'meta') and x.numel() > 0


def fused_max_pool3x3(x: Tensor, stride: int, dilation: int, inplace: bool) -> Tensor:
    """3x3 max pooling in the form that suits the device.

    PyTorch's operator stores its input and an 8-byte index per output for backward; this stores only the position of
    each maximum in its window, in two bytes. PyTorch's CPU kernel is slow unless the channels are last, so training
    uses that layout for every input. Without a gradient, the maximum of a large map is taken along each axis in turn.
    """
    trains = needs_gradient(x)
    if not trains and x.device.type == 'cpu' and (dilation > 1 or not _is_small(x)):
        return _maxima(x, stride, dilation, x if inplace and stride == 1 else None)
    padding = 1
    if dilation > 1:  # PyTorch pads half a kernel at most, without its dilation
        x, padding = F.pad(x, (dilation, ) * 4, value=float('-inf')), 0
    if trains:
        return _MaxPool3x3.apply(x, stride, padding, dilation)
    return F.max_pool2d(x, 3, stride, padding, dilation)


def _is_small(x: Tensor) -> bool:
    """Whether PyTorch's own operator takes less time than starting several others."""
    return x.numel() <= _SMALL and _memory_format(x) == torch.channels_last


def _maxima(x: Tensor, stride: int, dilation: int, out: Optional[Tensor]) -> Tensor:
    b, c, h, w = x.shape
    like = dict(dtype=x.dtype, device=x.device, memory_format=_memory_format(x))
    h = -(-h // stride)
    columns = torch.empty((b, c, h, w), **like)
    out = torch.empty((b, c, h, -(-w // stride)), **like) if out is None else out
    _max_along(x, columns, 2, stride, dilation)
    _max_along(columns, out, 3, stride, dilation)
    return out


def _max_along(x: Tensor, y: Tensor, dim: int, stride: int, dilation: int) -> None:
    """Write ``max(x[i - d], x[i], x[i + d])`` along one axis, at every ``stride``-th place, to ``y``."""
    size, num = x.shape[dim], y.shape[dim]
    after = max(0, min(num, -(-(size - dilation) // stride)))  # places with a pixel `dilation` after them
    first = min(num, -(-dilation // stride))  # the first place with one before it
    pairs = _every(x, dim, 0, after, stride), _every(x, dim, dilation, after, stride)
    torch.maximum(*pairs, out=y.narrow(dim, 0, after))
    if after < num:
        y.narrow(dim, after, num - after).copy_(_every(x, dim, after * stride, num - after, stride))
    if first < num:
        ahead = y.narrow(dim, first, num - first)
        torch.maximum(ahead, _every(x, dim, first * stride - dilation, num - first, stride), out=ahead)


def _every(x: Tensor, dim: int, start: int, num: int, stride: int) -> Tensor:
    """``num`` places along one axis, from ``start`` on, ``stride`` apart."""
    if stride == 1:
        return x.narrow(dim, min(start, x.shape[dim]), num)
    end = start + max(0, (num - 1) * stride + 1)
    return x[(slice(None), ) * dim + (slice(start, end, stride), )]


def _memory_format(x: Tensor) -> torch.memory_format:
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


class _MaxPool3x3(torch.autograd.Function):
    """Max pooling of some samples at a time: the operator's 8-byte index exists for those alone."""

    @staticmethod
    def forward(ctx, x: Tensor, stride: int, padding: int, dilation: int) -> Tensor:
        ctx.window = [3, 3], [stride, stride], [padding, padding], [dilation, dilation], False
        ctx.shape, ctx.memory_format = x.shape, _memory_format(x)
        b, c, h, w = x.shape
        shape = b, c, *((side + 2 * (padding - dilation) - 1) // stride + 1 for side in (h, w))
        layout = _layout(ctx, x)
        y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=ctx.memory_format)
        fits = 2 * dilation * (w + 1) <= _INT16_MAX  # the greatest distance from a window's origin
        index = torch.empty(shape, dtype=torch.int16 if fits else torch.int32, device=x.device, memory_format=layout)
        origins = _origins(ctx, index)
        for samples in _blocks(index):
            positions = torch.empty_like(index[samples], dtype=torch.long)
            with _part(y, samples, layout) as part:
                aten.max_pool2d_with_indices.out(x[samples].contiguous(memory_format=layout), *ctx.window, out=part,
                                                 indices=positions)
            index[samples].copy_(positions.sub_(origins))
        ctx.save_for_backward(index)
        return y

    @staticmethod
    def backward(ctx, dy: Tensor) -> Tuple[Tensor, None, None, None]:
        index, = ctx.saved_tensors
        if needs_plain_gradients(dy):  # by an operator that has a gradient
            maps = *ctx.shape[:2], -1
            places = (index + _origins(ctx, index)).reshape(maps)
            dx = dy.new_zeros(ctx.shape).view(maps).scatter_add(2, places, dy.reshape(maps))
            return dx.view(ctx.shape), None, None, None
        layout = _layout(ctx, dy)
        dx = torch.empty(ctx.shape, dtype=dy.dtype, device=dy.device, memory_format=ctx.memory_format)
        origins = _origins(ctx, index)
        for samples in _blocks(index):
            with _part(dx, samples, layout) as part:
                aten.max_pool2d_with_indices_backward.grad_input(
                    dy[samples].contiguous(memory_format=layout), part, *ctx.window, index[samples] + origins,
                    grad_input=part)
        return dx, None, None, None


def _origins(ctx, index: Tensor) -> Tensor:
    """Flat position of the pixel at which each window begins, or would if it were not padding: ``(H', W')``, int64."""
    _, (stride, _), (padding, _), *_ = ctx.window
    rows, columns = (torch.arange(side, device=index.device) * stride - padding for side in index.shape[2:])
    return rows[:, None] * ctx.shape[3] + columns


def _layout(ctx, x: Tensor) -> torch.memory_format:
    """What the operator computes in: the input's layout on a GPU; channels last on a CPU, where others are slow."""
    return ctx.memory_format if x.is_cuda else torch.channels_last


def _blocks(index: Tensor) -> Iterator[slice]:
    """Samples whose 8-byte index stays in a CPU's cache, or keeps a GPU busy; at least one at a time."""
    step = max(1, (_BLOCK_ON_GPU if index.is_cuda else _BLOCK) // index[0].numel())
    return (slice(start, start + step) for start in range(0, len(index), step))


@contextmanager
def _part(whole: Tensor, samples: slice, layout: torch.memory_format) -> Iterator[Tensor]:
    """Samples of a tensor to be written, in this layout: a view, or a tensor that is copied to its place."""
    place = whole[samples]
    if place.is_contiguous(memory_format=layout):
        yield place
    else:
        part = torch.empty_like(place, memory_format=layout)
        yield part
        place.copy_(part)
