"""The functions of torch whose results are cheap to compute again, and how each is."""
from functools import partial
from operator import itemgetter
from typing import Any, Callable, Dict, List, Optional, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .functions import InPlace, Swish
from .recipe import Kept, Recipe
from .recorder import Recorder

TABLE: Dict[Callable, Callable] = {}  # function of torch: handler, which is called in its place


def _for(*functions: Callable) -> Callable:
    def add(handler):
        TABLE.update(dict.fromkeys(functions, handler))
        return handler
    return add


def _is_new(out: Any, *args: Any) -> bool:
    """Whether a function made a tensor of its own, for autograd."""
    if not isinstance(out, Tensor) or not out.requires_grad:
        return False
    made = out.untyped_storage()._cdata
    return not any(isinstance(a, Tensor) and a.untyped_storage()._cdata == made for a in args[:1])


@_for(torch.add, Tensor.add, torch.sub, Tensor.sub, torch.div, Tensor.div, Tensor.neg,
      Tensor.__radd__, Tensor.__rmul__, Tensor.__rsub__, Tensor.__truediv__,
      torch.cat, torch.stack, torch.roll, Tensor.roll, torch.flip, Tensor.flip, Tensor.repeat, F.pad, F.interpolate, F.unfold, F.avg_pool2d,
      Tensor.contiguous, Tensor.clone, torch.clone, Tensor.reshape, torch.reshape, Tensor.flatten, torch.flatten,
      Tensor.to, Tensor.float, Tensor.half, Tensor.bfloat16, Tensor.double, Tensor.type,
      torch.where, Tensor.clamp, torch.clamp, F.pixel_shuffle, torch.pixel_shuffle, torch.pixel_unshuffle, torch.channel_shuffle)
def _pure(rec: Recorder, func: Callable, args: Sequence[Any], kwargs: Dict[str, Any],
          inplace: Optional[Callable] = None) -> Any:
    rec.begin()
    out = func(*args, **kwargs)
    if _is_new(out, *args) and rec.is_innermost():
        made, cost = rec.arguments(args)
        rec.write(out, partial(func, **kwargs) if kwargs else func, made, cost, inplace)
    return out


@_for(torch.mul, Tensor.mul)
def _mul(rec, func, args, kwargs):
    if len(args) == 2 and isinstance(args[1], Tensor) and isinstance(args[0], Tensor) and not kwargs:
        for x, s in (args, args[::-1]):
            if s.shape == x.shape and s.dtype == x.dtype and s.requires_grad and rec.is_innermost():
                source = rec.source(s)[0]
                if type(source) is Recipe and source.function in (torch.sigmoid, Tensor.sigmoid, F.sigmoid):
                    of, _ = rec.source(x)
                    inner = source.args[0]
                    if of is inner or type(of) is type(inner) is Kept and _same(of.tensor, inner.tensor):
                        rec.begin()
                        out = Swish.apply(x, s.detach())
                        rec.write(out, F.silu, [of], 0, partial(F.silu, inplace=True))
                        return out
    return _pure(rec, func, args, kwargs)


def _same(x, y):
    return (x.untyped_storage()._cdata == y.untyped_storage()._cdata and x.stride() == y.stride()
            and x.storage_offset() == y.storage_offset() and x._version == y._version)


@_for(F.layer_norm)
def _layer_norm(rec, func, args, kwargs):
    return _pure(rec, func, _positional(args, kwargs, 'input', 'normalized_shape', 'weight', 'bias', 'eps'), {})


@_for(F.group_norm)
def _group_norm(rec, func, args, kwargs):
    return _pure(rec, func, _positional(args, kwargs, 'input', 'num_groups', 'weight', 'bias', 'eps'), {})


def _positional(args: Sequence[Any], kwargs: Dict[str, Any], *names: str) -> List[Any]:
    defaults = dict(weight=None, bias=None, eps=1e-5)
    rest = {**defaults, **kwargs}
    return [*args, *(rest[name] for name in names[len(args):])]


_INPLACE = {  # in-place methods of tensors, and what they do to another tensor
    Tensor.add_: torch.add, Tensor.sub_: torch.sub, Tensor.mul_: torch.mul, Tensor.div_: torch.div,
    Tensor.relu_: torch.relu, torch.relu_: torch.relu, Tensor.sigmoid_: torch.sigmoid, Tensor.tanh_: torch.tanh,
    Tensor.clamp_: torch.clamp, Tensor.__iadd__: torch.add, Tensor.__isub__: torch.sub, Tensor.__imul__: torch.mul}


@_for(*_INPLACE)
def _changed(rec, func, args, kwargs):
    return _in_place(rec, func, _INPLACE[func], args, kwargs)


def _in_place(rec: Recorder, func: Callable, function: Callable, args: Sequence[Any], kwargs: Dict[str, Any],
              inplace: Optional[Callable] = None) -> Any:
    """``func`` changes its first argument, as ``function`` computes it from that."""
    x = args[0]
    made = None
    if x.requires_grad and not x._is_view() and rec.is_innermost():
        made, cost = rec.arguments(args)
        if type(made[0]) is Kept:
            made = None
    rec.begin()
    out = func(*args, **kwargs)
    if made is not None:
        recipe = rec.write(x, partial(function, **kwargs), made, cost, inplace or partial(func, **kwargs))
        own = x.untyped_storage()._cdata
        if recipe is not None:
            for saved in rec.recent:  # autograd has cloned what it needs of the value before
                if type(saved.source) is Kept:
                    tensor = saved.source.tensor
                    if tensor.shape == x.shape and tensor.untyped_storage()._cdata not in (
                            own, *(a.untyped_storage()._cdata for a in args[1:] if isinstance(a, Tensor))):
                        rec.replace(saved, made[0] if type(made[0]) is Recipe else made[0].recipe)
    return out


_ACTIVATIONS = {
    F.relu: ('input', 'inplace'), F.relu6: ('input', 'inplace'), F.silu: ('input', 'inplace'),
    F.hardswish: ('input', 'inplace'), F.hardsigmoid: ('input', 'inplace'), F.mish: ('input', 'inplace'),
    F.leaky_relu: ('input', 'negative_slope', 'inplace'), F.hardtanh: ('input', 'min_val', 'max_val', 'inplace'),
    F.elu: ('input', 'alpha', 'inplace'), F.celu: ('input', 'alpha', 'inplace'), F.selu: ('input', 'inplace'),
    F.gelu: ('input', ), F.softplus: ('input', 'beta', 'threshold'), torch.relu: ('input', ), Tensor.relu: ('input', ),
    torch.sigmoid: ('input', ), Tensor.sigmoid: ('input', ), F.sigmoid: ('input', ), torch.tanh: ('input', ),
    Tensor.tanh: ('input', ), F.tanh: ('input', ), F.logsigmoid: ('input', )}
aten = torch.ops.aten
_DERIVATIVES = {  # of those whose in-place form would have autograd clone the input
    F.silu: aten.silu_backward, F.hardswish: aten.hardswish_backward, F.mish: aten.mish_backward,
    F.hardsigmoid: aten.hardsigmoid_backward,
    F.relu6: lambda grad, y: aten.hardtanh_backward(grad, y, 0., 6.),
    F.hardtanh: lambda grad, y, min_val=-1., max_val=1.: aten.hardtanh_backward(grad, y, min_val, max_val)}
_METHODS = {torch.sigmoid: torch.sigmoid_, Tensor.sigmoid: torch.sigmoid_, torch.relu: torch.relu_,
            Tensor.relu: torch.relu_, torch.tanh: torch.tanh_, Tensor.tanh: torch.tanh_}


@_for(*_ACTIVATIONS)
def _activation(rec, func, args, kwargs):
    bound = dict(zip(_ACTIVATIONS[func], args), **kwargs)
    x, inplace = bound.pop('input'), bound.pop('inplace', None)
    function = partial(func, **bound) if bound else func
    changing = _METHODS.get(func) or partial(func, inplace=True, **bound) if 'inplace' in _ACTIVATIONS[func] else _METHODS.get(func)
    if inplace and func in _DERIVATIVES:
        derivative = _DERIVATIVES[func]
        return _in_place_activation(rec, changing, function, x, partial(derivative, **bound) if bound else derivative)
    if inplace:
        return _in_place(rec, changing, function, (x, ), {}, changing)
    return _pure(rec, function, (x, ), {}, changing)


def _in_place_activation(rec, changing, function, x, derivative):
    source = rec.source(x)[0] if x.requires_grad and not x._is_view() and rec.is_innermost() else None
    if source is None or type(source) is Kept:
        return changing(x)
    rec.begin()
    placeholder = x.new_empty(0)
    out = InPlace.apply(x, placeholder, changing, derivative)
    for saved in rec.recent:
        if saved.source.tensor.untyped_storage()._cdata == placeholder.untyped_storage()._cdata:
            rec.replace(saved, source)
    rec.write(x, function, [source], 0, changing)
    return out


@_for(F.batch_norm)
def _batch_norm(rec, func, args, kwargs):
    return _batch_norm_(rec, *args, **kwargs)


def _batch_norm_(rec, input, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    if not rec.is_innermost():
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    if training:
        F._verify_batch_size(input.size())
    out, mean, invstd, _, _ = torch._batch_norm_impl_index(
        input, weight, bias, running_mean, running_var, training, momentum, eps, torch.backends.cudnn.enabled)
    if _is_new(out):
        if training:
            made, cost = rec.arguments((input, mean, invstd, weight, bias))
            rec.write(out, _normalize, made, cost)
        else:
            made, cost = rec.arguments((input, running_mean, running_var, weight, bias))
            rec.write(out, partial(_normalize_by_running, eps=eps), made, cost)
    return out


def _normalize(x, mean, invstd, weight, bias):
    # The variance is 1 and the scale holds its inverse root: the kernel has the same numbers as in forward.
    scale = invstd if weight is None else weight * invstd
    if bias is None:
        bias = torch.zeros_like(mean)
    return torch.native_batch_norm(x, scale, bias, mean, torch.ones_like(mean), False, 0., 0.)[0]


def _normalize_by_running(x, mean, var, weight, bias, eps):
    return torch.native_batch_norm(x, weight, bias, mean, var, False, 0., eps)[0]


WINDOW = 9


@_for(F.max_pool2d)
def _max_pool(rec, func, args, kwargs):
    return _max_pool_(rec, func, *args, **kwargs)


def _max_pool_(rec, func, input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    rec.begin()
    out = func(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
    if return_indices or not _is_new(out) or not rec.is_innermost():
        return out
    window = kernel_size ** 2 if isinstance(kernel_size, int) else kernel_size[0] * kernel_size[-1]
    indices = [s for s in rec.recent if type(s.source) is Kept and s.source.tensor.dtype == torch.int64]
    (source, *rest), cost = rec.arguments((input, kernel_size, stride if stride is not None else [], padding, dilation, ceil_mode))
    if len(indices) == 1 and window > WINDOW:
        tensor = indices[0].source.tensor
        plane = input.shape[-1] * input.shape[-2]
        small = tensor.to(torch.int16 if plane < 2**15 else torch.int32)
        which = Recipe(rec.values, torch.Tensor.long, [Kept(small)])
        rec.replace(indices[0], which)
    elif len(indices) == 1 and not cost:
        pool = Recipe(rec.values, torch._C._nn.max_pool2d_with_indices, [source, *rest])
        pool.uses = pool.pending = 1
        rec.write(out, itemgetter(0), [pool])
        which = Recipe(rec.values, itemgetter(1), [pool])
        tensor = indices[0].source.tensor
        which.layout = tensor.size(), tensor.stride(), tensor.dtype
        rec.replace(indices[0], which)
    return out
