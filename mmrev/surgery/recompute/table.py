"""The table of functions whose results are cheap to recompute, and the two general ways to record them."""
from functools import partial
from typing import Any, Callable, Dict, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .recipe import Kept, Recipe
from .recorder import Handler, Recorder

TABLE: Dict[Callable, Handler] = {}


def handles(*functions: Callable) -> Callable[[Handler], Handler]:
    """Register a handler that is called in place of these functions, with the recorder and the function."""

    def enter(handler: Handler) -> Handler:
        TABLE.update(dict.fromkeys(functions, handler))
        return handler

    return enter


@handles(torch.add, Tensor.add, Tensor.__radd__, torch.sub, Tensor.sub, Tensor.__rsub__, torch.neg, Tensor.neg,
         torch.div, Tensor.div, Tensor.__truediv__, torch.clamp, Tensor.clamp, torch.where, torch.cat, torch.concat,
         torch.stack, torch.clone, Tensor.clone, torch.roll, Tensor.roll, torch.flip, Tensor.flip, Tensor.repeat,
         torch.pixel_shuffle, torch.pixel_unshuffle, torch.channel_shuffle, F.pad, F.interpolate, F.unfold,
         F.avg_pool2d)
def pure(recorder: Recorder, function: Callable, args: Sequence[Any], kwargs: Dict[str, Any],
         inplace: Optional[Callable] = None) -> Any:
    """Call a function that returns a new tensor and depends only on its arguments, and record it.

    Args:
        recorder: The recorder.
        function: Function to call now, and again in backward.
        args: Its arguments, including all tensors.
        kwargs: Its keyword arguments.
        inplace: The same function, allowed to overwrite the first argument.
    """
    if kwargs:
        function, args = by_position(function, args, kwargs)
    recorder.begin()
    out = function(*args)
    if isinstance(out, Tensor) and out.requires_grad and out.layout is torch.strided:
        made, cost = recorder.arguments(args)
        again, first = function, args[0]
        if isinstance(first, Tensor) and first.dtype != out.dtype and first.is_floating_point():
            again, inplace = partial(_in_type, again, out.dtype), None  # with the autocast state of the call
            replace_casts(recorder, first, args[1:])
        recorder.write(out, again, made, cost, inplace)
    return out


def by_position(function: Callable, args: Sequence[Any], kwargs: Dict[str, Any]) -> Tuple[Callable, Sequence[Any]]:
    """The same call without keywords: keyword tensors become the last arguments, others part of the function."""
    names = tuple(name for name, value in kwargs.items() if isinstance(value, (Tensor, list, tuple)))
    if not names:
        return partial(function, **kwargs), args
    rest = {name: value for name, value in kwargs.items() if name not in names}
    return partial(_named, function, len(args), names, rest), (*args, *(kwargs[name] for name in names))


def _named(function: Callable, count: int, names: Sequence[str], rest: Dict[str, Any], *args: Any) -> Any:
    return function(*args[:count], **dict(zip(names, args[count:])), **rest)


def _in_type(function: Callable, dtype: torch.dtype, x: Tensor, *args: Any) -> Tensor:
    return function(x.to(dtype), *args)


@handles(Tensor.contiguous, Tensor.reshape, torch.reshape, Tensor.flatten, torch.flatten, Tensor.to, Tensor.type,
         Tensor.float, Tensor.half, Tensor.bfloat16, Tensor.double)
def copies_or_not(recorder: Recorder, function: Callable, args: Sequence[Any], kwargs: Dict[str, Any]) -> Any:
    """Call a function that may return its argument or a view of it."""
    function, args = by_position(function, args, kwargs)
    recorder.begin()
    out = function(*args)
    x = args[0]
    if not isinstance(out, Tensor):  # `type` without an argument returns a string
        return out
    if out.requires_grad and out.device == x.device and out.layout is x.layout is torch.strided and (
            out.untyped_storage()._cdata != x.untyped_storage()._cdata):
        made, cost = recorder.arguments(args)
        recorder.write(out, function, made, cost)
    return out


_OUT_OF_PLACE = {  # functions that change their first argument, and their out-of-place forms
    Tensor.add_: torch.add, Tensor.sub_: torch.sub, Tensor.mul_: torch.mul, Tensor.div_: torch.div,
    Tensor.__iadd__: torch.add, Tensor.__isub__: torch.sub, Tensor.__imul__: torch.mul, Tensor.__itruediv__: torch.div,
    Tensor.relu_: torch.relu, torch.relu_: torch.relu, Tensor.sigmoid_: torch.sigmoid,
    torch.sigmoid_: torch.sigmoid, Tensor.tanh_: torch.tanh, torch.tanh_: torch.tanh, Tensor.clamp_: torch.clamp}


@handles(*_OUT_OF_PLACE)
def _overwrite(recorder, function, args, kwargs):
    return in_place(recorder, function, _OUT_OF_PLACE[function], args, kwargs)


def in_place(recorder: Recorder, function: Callable, out_of_place: Callable, args: Sequence[Any],
             kwargs: Dict[str, Any]) -> Any:
    """Call a function that changes its first argument, and record its new content.

    Args:
        recorder: The recorder.
        function: Function to call.
        out_of_place: The out-of-place form of the function.
        args: Arguments of both, including all tensors.
        kwargs: Keyword arguments of both.
    """
    x = args[0] if args else None
    if any(isinstance(value, Tensor) for value in kwargs.values()) or not changes_recipe(recorder, x):
        return function(*args, **kwargs)
    made, cost = recorder.arguments(args)
    recorder.begin()
    out = function(*args, **kwargs)
    again = (partial(out_of_place, **kwargs), partial(function, **kwargs)) if kwargs else (out_of_place, function)
    recipe = recorder.write(x, again[0], made, cost, again[1])
    known = {a.untyped_storage()._cdata for a in args if isinstance(a, Tensor)}
    for saved in recorder.recent if recipe is not None else ():  # a clone of its input
        if saved.tensor is not None and saved.tensor.shape == x.shape and (
                saved.tensor.untyped_storage()._cdata not in known):
            saved.replace(made[0])
    return out


def changes_recipe(recorder: Recorder, x: Any) -> bool:
    """Whether a tensor that is about to change in place has a recipe."""
    return (isinstance(x, Tensor) and x.requires_grad and not x.is_leaf and not x._is_view()
            and type(recorder.source(x)[0]) is not Kept)


def replace_casts(recorder: Recorder, x: Tensor, others: Sequence[Any] = ()) -> None:
    """Recompute autocast's copy of a tensor, if the operator just saved one.

    Args:
        recorder: The recorder.
        x: Argument of the operator.
        others: Its other arguments. What might be a copy of one of these is stored.
    """
    source, cost = recorder.source(x)
    for saved in recorder.recent if not cost else ():
        copy = saved.tensor
        if copy is not None and copy.dtype != x.dtype and copy.is_floating_point() and is_reshaped(copy, x) and (
                not any(resembles(copy, other) for other in others)):
            layout = copy.size(), copy.stride(), copy.dtype
            cast = partial(_cast, dtype=copy.dtype, size=copy.size())
            saved.replace(Recipe(recorder.values, cast, [source], None, layout))


def is_reshaped(copy: Tensor, x: Tensor) -> bool:
    """Whether the shape is that of ``x``, or one in which operators join leading dimensions of ``x``."""
    return copy.shape == x.shape or copy.numel() == x.numel() and (
        1 < copy.ndim < x.ndim and copy.shape[-1] == x.shape[-1])


def resembles(copy: Tensor, other: Any) -> bool:
    """Whether a saved tensor may come from this argument: it, its transpose, or several of it in a batch."""
    if not isinstance(other, Tensor):
        return False
    ends = copy.shape[-2:]
    return copy.shape == other.shape or copy.ndim < 4 and (
        ends == other.shape[-2:] or other.ndim == 2 and ends == other.shape[::-1])


def _cast(x: Tensor, dtype: torch.dtype, size: torch.Size) -> Tensor:
    return x.to(dtype).reshape(size)
