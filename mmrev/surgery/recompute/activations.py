"""Activations and gates."""
from functools import partial
from typing import Any, Callable, Dict, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmrev import compat

from .functions import Derivative, InPlace, Swish
from .recipe import Kept, Recipe, Source
from .recorder import Recorder
from .table import changes_recipe, handles, in_place, pure

aten = torch.ops.aten

_NAMES = {  # names of their arguments
    F.relu: ('input', 'inplace'), F.relu6: ('input', 'inplace'), F.silu: ('input', 'inplace'),
    F.hardswish: ('input', 'inplace'), F.hardsigmoid: ('input', 'inplace'), F.mish: ('input', 'inplace'),
    F.selu: ('input', 'inplace'), F.elu: ('input', 'alpha', 'inplace'), F.celu: ('input', 'alpha', 'inplace'),
    F.leaky_relu: ('input', 'negative_slope', 'inplace'), F.hardtanh: ('input', 'min_val', 'max_val', 'inplace')}

# Activations whose in-place form makes autograd clone the input. For these two, the output has its sign and bounds:
_BY_OUTPUT: Dict[Callable, Derivative] = {
    F.relu6: lambda grad, z: aten.hardtanh_backward(grad, z, 0., 6.),
    F.hardtanh: lambda grad, z, min_val=-1., max_val=1.: aten.hardtanh_backward(grad, z, min_val, max_val)}
_BY_INPUT: Dict[Callable, Derivative] = {
    F.silu: aten.silu_backward.default, F.hardswish: aten.hardswish_backward.default,
    F.hardsigmoid: aten.hardsigmoid_backward.default, F.mish: aten.mish_backward.default}


@handles(*_NAMES)
def _activate(recorder, function, args, kwargs):
    given = dict(zip(_NAMES[function], args), **kwargs)
    x, inplace = given.pop('input'), given.pop('inplace', False)
    out_of_place, overwriting = partial(function, **given), partial(function, inplace=True, **given)
    if not inplace:
        return pure(recorder, out_of_place, (x, ), {}, overwriting)
    derivative = _BY_OUTPUT.get(function) or _BY_INPUT.get(function)
    if derivative is None:
        return in_place(recorder, overwriting, out_of_place, (x, ), {})
    if not changes_recipe(recorder, x):
        return overwriting(x)
    return _overwrite(recorder, x, out_of_place, overwriting, partial(derivative, **given), function in _BY_OUTPUT)


def _overwrite(recorder: Recorder, x: Tensor, out_of_place: Callable, overwriting: Callable, derivative: Derivative,
               by_output: bool) -> Tensor:
    source, _ = recorder.source(x)
    stand_in = x.new_empty(0)
    recorder.begin()
    out = InPlace.apply(x, stand_in, overwriting, derivative)
    recipe = recorder.write(x, out_of_place, [source], 0, overwriting)
    place = stand_in.untyped_storage()._cdata
    for saved in recorder.recent:
        if saved.tensor.untyped_storage()._cdata == place:
            saved.replace(recipe if by_output and recipe is not None else source)
    if recorder.tally is not None:
        recorder.tally.spare(x)
    return out


@handles(F.gelu, F.softplus, F.logsigmoid, F.glu, F.softsign)
def _plain(recorder, function, args, kwargs):
    return pure(recorder, function, args, kwargs)


@handles(torch.prelu)
def _parametric(recorder, function, args, kwargs):
    return pure(recorder, _prelu, args, kwargs)


def _prelu(x: Tensor, weight: Tensor) -> Tensor:
    return torch.prelu(x, weight.to(x.dtype))  # which is for autocast to do, but not in backward


_WHOLE = {torch.sigmoid: torch.sigmoid_, Tensor.sigmoid: torch.sigmoid_, F.sigmoid: torch.sigmoid_,
          torch.relu: torch.relu_, Tensor.relu: torch.relu_,
          torch.tanh: torch.tanh_, Tensor.tanh: torch.tanh_, F.tanh: torch.tanh_}
_SIGMOIDS = (torch.sigmoid, Tensor.sigmoid, F.sigmoid)


@handles(*_WHOLE)
def _without_arguments(recorder, function, args, kwargs):
    return pure(recorder, function, args, kwargs, _WHOLE[function])


@handles(torch.mul, Tensor.mul, Tensor.__rmul__)
def _multiply(recorder: Recorder, function: Callable, args: Sequence[Any], kwargs: Dict[str, Any]) -> Any:
    if len(args) == 2 and not kwargs and all(isinstance(a, Tensor) and a.requires_grad for a in args):
        for x, gate in (args, args[::-1]):
            source = _is_sigmoid_of(recorder, gate, x)
            if source is not None:
                recorder.begin()
                out = Swish.apply(x, gate.detach())
                recorder.bypass(gate)
                recorder.write(out, _swish, [source])
                return out
    return pure(recorder, function, args, kwargs)


@handles(Tensor.register_hook, Tensor.retain_grad)
def _expect_gradient(recorder, function, args, kwargs):
    if recorder.is_bypassed(args[0]):
        raise RuntimeError(f'`{function.__name__}` of a sigmoid after its product with the input, which '
                           '`mmrev.save_memory` differentiates as one function; call it before the multiplication')
    return function(*args, **kwargs)


def _swish(x: Tensor) -> Tensor:
    """With the rounding of the two operators of the forward, which ``F.silu`` does not have."""
    return torch.sigmoid(x).mul_(x)


def _is_sigmoid_of(recorder: Recorder, gate: Tensor, x: Tensor) -> Any:
    """The source of ``x``, if ``gate`` is its sigmoid and no hook expects the gradient of ``gate``."""
    node, edge = gate.grad_fn, compat.output_edge(x)
    if (gate.shape != x.shape or gate.dtype != x.dtype or not x.is_floating_point() or gate._backward_hooks
            or gate.retains_grad or node is None or node.name() != 'SigmoidBackward0'
            or node.next_functions[0] != (edge.node, edge.output_nr)):
        return None
    recipe, _ = recorder.source(gate)
    if type(recipe) is not Recipe or recipe.function not in _SIGMOIDS:
        return None
    of, source = recipe.args[0], recorder.source(x)[0]
    return source if of is source or _are_one(of, source) else None


def _are_one(a: Source, b: Source) -> bool:
    if type(a) is not Kept or type(b) is not Kept or a.version != b.version:
        return False
    return (a.tensor.untyped_storage()._cdata == b.tensor.untyped_storage()._cdata and a.tensor.shape == b.tensor.shape
            and a.tensor.stride() == b.tensor.stride() and a.tensor.storage_offset() == b.tensor.storage_offset())
