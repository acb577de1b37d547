"""Batch normalization and activation that store one tensor for backward instead of two."""
from functools import partial
from typing import Callable, Dict, NamedTuple, Optional, Tuple, Type

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmrev import compat
from mmrev.compat import backward_into
from mmrev.reversible.notes import skip_note, stop_noting

from .batch_norm import batch_norm, can_note
from .guard import is_staged, may_fuse, needs_gradient
from .plain_gradients import needs_plain_gradients, plain_gradients

aten = torch.ops.aten


class _Activation(NamedTuple):
    """``apply(y)`` turns ``y`` into ``act(y)``; ``differentiate(dz, y)`` returns the gradient, possibly in ``y``."""
    apply: Callable[[Tensor], Tensor]
    differentiate: Callable[[Tensor, Tensor], Tensor]


# Those whose backward needs their input. One that needs its output (ReLU) stores what the next layer stores anyway.
_ACTIVATIONS: Dict[Type[nn.Module], _Activation] = {
    nn.Hardswish: _Activation(lambda y: F.hardswish(y, inplace=True),
                              aten.hardswish_backward),  # the variant with `out` allocates, too, and copies
    nn.SiLU: _Activation(lambda y: F.silu(y, inplace=True),
                         lambda dz, y: backward_into(aten.silu_backward.grad_input, dz, y, grad_input=y)),
}


def can_fuse(x: Tensor, norm: nn.Module, act: Optional[nn.Module]) -> bool:
    """Whether :func:`fused_norm_act` supports norm and activation and may replace them.

    A norm alone is replaced only where its statistics can be reused: in training, within a reversible function.
    """
    if type(norm) not in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d) or \
            not (act is None or type(act) in _ACTIVATIONS):
        return False
    if not may_fuse(*(m for m in (norm, act) if m is not None)):
        if not is_staged() and norm.training and can_note(x):  # a compiler must not look at the notes
            skip_note(norm)
        return False
    if act is None and not (norm.training and can_note(x)):
        return False
    if act is None and needs_gradient(x, norm.weight, norm.bias) and (
            not compat.can_save_memory or compat.saved_tensor_hooks() is not None):
        stop_noting()  # a checkpoint within the function requires that PyTorch's form saves its tensors again
        return False
    statistics = next((t.dtype for t in (norm.weight, norm.running_mean) if t is not None), x.dtype)
    if statistics not in (torch.float32, torch.float64):
        return False  # a variance may exceed the range of half precision, its inverse root does not
    norm._check_input_dim(x)
    return x.numel() > x.shape[1] == norm.num_features


def fused_norm_act(x: Tensor, norm: nn.Module, act: Optional[nn.Module]) -> Tensor:
    """``act(norm(x))``; backward recomputes ``norm(x)``, elementwise, from ``x`` and the statistics of forward."""
    activation = None if act is None else _ACTIVATIONS[type(act)]
    if not needs_gradient(x, norm.weight, norm.bias):
        y = _normalize(x, norm)[0] if norm.training and can_note(x) else norm(x)
        return y if activation is None else activation.apply(y)
    return _NormAct.apply(x, norm.weight, norm.bias, norm, activation)


def _normalize(x: Tensor, norm: nn.Module) -> Tuple[Tensor, Tensor, Tensor, bool]:
    """``norm(x)``, the mean and the inverse deviation that it is computed with, and whether they are the batch's."""
    batch, momentum, running_mean, running_var = _batch_or_running(norm)
    y, mean, invstd = batch_norm(x, norm.weight, norm.bias, running_mean, running_var, batch, momentum, norm.eps, norm)
    if not batch:
        mean, invstd = running_mean.clone(), (running_var + norm.eps).rsqrt()
    return y, mean, invstd, batch


def _batch_or_running(norm: nn.Module) -> Tuple[bool, float, Optional[Tensor], Optional[Tensor]]:
    """Whether the batch's statistics are used, and what they update, or else the running ones."""
    momentum = 0. if norm.momentum is None else norm.momentum
    tracked = norm.training and norm.track_running_stats
    if tracked and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
        if norm.momentum is None:
            momentum = 1 / float(norm.num_batches_tracked)
    batch = norm.training or (norm.running_mean is None and norm.running_var is None)
    mean, var = (norm.running_mean, norm.running_var) if tracked or not batch else (None, None)
    return batch, momentum, mean, var


class _NormAct(torch.autograd.Function):
    """``apply(x, weight, bias, norm, activation)``."""

    @staticmethod
    def forward(ctx, x, weight, bias, norm, activation):
        y, mean, invstd, ctx.batch = _normalize(x, norm)
        ctx.activation, ctx.eps = activation, norm.eps
        ctx.save_for_backward(x, weight, bias, mean, invstd)
        return y if activation is None else activation.apply(y)

    @staticmethod
    def backward(ctx, dz):
        x, weight, bias, mean, invstd = ctx.saved_tensors
        if needs_plain_gradients(dz):
            return (*plain_gradients(partial(_plain, ctx, mean, invstd), (x, weight, bias), dz), None, None)
        var = None if ctx.batch and ctx.activation is None else invstd.pow(-2)
        if ctx.activation is None:
            dy = _like(dz, x)
        else:
            y = torch.native_batch_norm(x, weight, bias, mean, var, False, 0., 0.)[0]
            dy = ctx.activation.differentiate(dz, y)
            del y  # where that is another tensor
        dx, dweight, dbias = aten.native_batch_norm_backward(
            dy, x, weight, mean, var, mean, invstd, ctx.batch, 0., list(ctx.needs_input_grad[:3]))
        return dx, dweight, dbias, None, None


def _plain(ctx, mean: Tensor, invstd: Tensor, x: Tensor, weight: Optional[Tensor], bias: Optional[Tensor]) -> Tensor:
    if ctx.batch:
        y = F.batch_norm(x, None, None, weight, bias, True, 0., ctx.eps)
    else:
        y = torch.native_batch_norm(x, weight, bias, mean, invstd.pow(-2), False, 0., 0.)[0]
    return y if ctx.activation is None else ctx.activation.apply(y)


def _like(dz: Tensor, x: Tensor) -> Tensor:
    """``dz`` with the strides of ``x``.

    With other strides, such as those of a part of a stream, PyTorch's CPU kernel takes four times as long.
    """
    return dz if dz.stride() == x.stride() else torch.empty_like(x, dtype=dz.dtype).copy_(dz)
