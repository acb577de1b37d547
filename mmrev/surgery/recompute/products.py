"""Convolutions and matrix products, which are recomputed only within blocks, and their casts by autocast."""
from functools import partial
from typing import Any, Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .recipe import Recipe
from .recorder import Recorder
from .table import by_position, handles, pure, replace_casts


@handles(F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d, F.linear,
         torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm)
def _product(recorder, function, args, kwargs):
    autocast = torch._C._is_any_autocast_enabled()
    if not recorder.blocks and not autocast:
        return function(*args, **kwargs)
    function, args = by_position(function, args, kwargs)
    recorder.begin()
    out = function(*args)
    if autocast:
        for x in args[:2]:
            if isinstance(x, Tensor) and not (x.is_leaf and x.requires_grad) and x.dtype != out.dtype:
                replace_casts(recorder, x)
    if recorder.blocks and out.requires_grad:
        _note(recorder, function, args, out)
    return out


def _note(recorder: Recorder, function: Callable, args: Any, out: Tensor) -> None:
    a, b = args[:2]
    for x in (a, b):
        source, cost = recorder.source(x)
        for saved in recorder.recent if not cost else ():
            if saved.tensor is not None and _is_copy(saved.tensor, x, min(a.ndim, b.ndim) > 2):
                copy = saved.tensor
                layout = copy.size(), copy.stride(), copy.dtype
                saved.replace(Recipe(recorder.values, Tensor.reshape, [source, copy.size()], None, layout))
    made, cost = recorder.arguments(args)
    recorder.write(out, partial(_in_type, function, out.dtype), made, cost)


def _is_copy(saved: Tensor, x: Tensor, in_batches: bool) -> bool:
    """Whether this is a factor reshaped by the operator: to one batch dimension, or to none for a linear layer."""
    ndim = 3 if in_batches else 2
    return (x.ndim > ndim == saved.ndim and saved.numel() == x.numel() and saved.dtype == x.dtype
            and saved.shape[1:] == x.shape[x.ndim - ndim + 1:]
            and saved.untyped_storage()._cdata != x.untyped_storage()._cdata)


def _in_type(function: Callable, dtype: torch.dtype, *args: Any) -> Tensor:
    return function(*(a.to(dtype) if isinstance(a, Tensor) else a for a in args))


@handles(F.softmax, torch.softmax, Tensor.softmax)
def _softmax(recorder, function, args, kwargs):
    return pure(recorder, function, args, kwargs) if recorder.blocks else function(*args, **kwargs)
