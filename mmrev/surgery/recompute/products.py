"""Convolutions, matrix products and attention, which are recomputed only within blocks, and casts by autocast."""
from functools import partial
from typing import Any, Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .recipe import Recipe
from .recorder import Recorder
from .table import by_position, handles, is_reshaped, pure, replace_casts, resembles


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
        for x, other in (args[:2], args[1::-1]):
            if isinstance(x, Tensor) and not (x.is_leaf and x.requires_grad) and x.dtype != out.dtype:
                replace_casts(recorder, x, [other])
    if recorder.blocks and out.requires_grad:
        _note(recorder, function, args, out)
    return out


def _note(recorder: Recorder, function: Callable, args: Any, out: Tensor) -> None:
    for x, other in (args[:2], args[1::-1]):
        source, cost = recorder.source(x)
        places = [a.untyped_storage()._cdata for a in (x, other)]
        for saved in recorder.recent if not cost else ():
            copy = saved.tensor
            if copy is not None and copy.dtype == x.dtype and copy.ndim < x.ndim and is_reshaped(copy, x) and (
                    copy.untyped_storage()._cdata not in places and not resembles(copy, other)):
                layout = copy.size(), copy.stride(), copy.dtype
                saved.replace(Recipe(recorder.values, Tensor.reshape, [source, copy.size()], None, layout))
    made, cost = recorder.arguments(args)
    recorder.write(out, partial(_in_type, function, out.dtype), made, cost)


def _in_type(function: Callable, dtype: torch.dtype, *args: Any) -> Tensor:
    return function(*(a.to(dtype) if isinstance(a, Tensor) else a for a in args))


@handles(F.softmax, torch.softmax, Tensor.softmax)
def _softmax(recorder, function, args, kwargs):
    return pure(recorder, function, args, kwargs) if recorder.blocks else function(*args, **kwargs)


@handles(F.scaled_dot_product_attention)
def _attention(recorder, function, args, kwargs):
    drops = kwargs.get('dropout_p', args[4] if len(args) > 4 else 0.)
    if not recorder.blocks or drops:
        return function(*args, **kwargs)
    function, args = by_position(function, args, kwargs)
    recorder.begin()
    out = function(*args)
    kinds = {a.dtype for a in args if isinstance(a, Tensor) and a.is_floating_point()}
    if out.requires_grad and kinds == {out.dtype}:
        made, cost = recorder.arguments(args)
        recorder.write(out, function, made, cost)
    return out
