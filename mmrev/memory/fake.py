"""A training step without its arithmetic: tensors have shapes, and get values only when the step reads them.

Tensors that a network computes from images and weights are PyTorch's `FakeTensor`, which have no values. Anchors,
boxes, labels and everything else that follows from the data have values, so target assignment and sampling really run.
If code reads a value that depends on the network, as the selection of proposals does, that value is computed from
stand-ins: small random numbers for the outputs of convolutions and matrix products, and the real operators after them.
"""
import contextlib
import importlib
import itertools
import math
import weakref
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (DataDependentOutputException, DynamicOutputShapeException, FakeTensor,
                                           FakeTensorMode, UnsupportedOperatorException)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from mmrev.problems import ProblemError

from .timeline import Timeline

aten = torch.ops.aten
_DYNAMIC = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException)
_CONSTANTS = {aten.new_zeros, aten.new_ones, aten.new_full, aten.zeros_like, aten.ones_like, aten.full_like}
_FROM_NOTHING = {aten.empty, aten.zeros, aten.ones, aten.full, aten.rand, aten.randn}
_INDEXED = {aten.index, aten.index_put, aten.index_put_, aten._unsafe_index, aten._index_put_impl_}
# Operators whose outputs are replaced by random numbers.
_PRODUCTS = {getattr(aten, name) for name in (
    'convolution', 'mm', 'addmm', 'bmm', 'baddbmm', '_scaled_dot_product_flash_attention',
    '_scaled_dot_product_flash_attention_for_cpu', '_scaled_dot_product_efficient_attention') if hasattr(aten, name)}
STAND_IN_SCALE = 0.01
_SMALL = 2**16  # elements; parameters with fewer get values


@dataclass(frozen=True)
class _Ref:
    """A tensor without values, as a view of a numbered storage."""
    storage: int
    dtype: torch.dtype
    shape: Tuple[int, ...]
    stride: Tuple[int, ...]
    offset: int


class _Write(NamedTuple):
    """An operator that allocated or changed storages."""
    func: Any  # None: its values are stand-ins
    args: Any
    kwargs: Any
    outputs: Tuple[Tuple[int, _Ref], ...]  # new tensors: position among its outputs, and view
    reads: Set[int]
    writes: Set[int]


class Building(TorchDispatchMode):
    """Large tensors that a factory function creates, such as weights, get no values.

    Attributes:
        fake: Mode of the tensors without values.
        values: Values that small weights had before :meth:`take_values`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.values: Dict[Tensor, Tensor] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in _FROM_NOTHING and math.prod(args[0]) > _SMALL:
            with self.fake:
                return func(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def take_values(self, model: nn.Module) -> None:
        """Replace the weights that have values by tensors without."""
        replaced: Dict[nn.Parameter, nn.Parameter] = {}
        for module in model.modules():
            for name, weight in module._parameters.items():
                if weight is not None and not isinstance(weight, FakeTensor):
                    if weight not in replaced:
                        replaced[weight] = nn.Parameter(self.fake.from_tensor(weight.detach()), weight.requires_grad)
                        self.values[replaced[weight]] = weight.detach()
                    module._parameters[name] = replaced[weight]


class FakeStep(Timeline):
    """A :class:`Timeline` in which nothing that depends on images or weights is computed.

    Images and weights are tensors without values, see :class:`Building`.

    Args:
        model: The model.
        values: Values of weights, for code that reads what depends on them; others are stand-ins.
    """

    def __init__(self, model: nn.Module, values: Mapping[Tensor, Tensor] = MappingProxyType({})):
        super().__init__(model)
        self._log: List[_Write] = []
        self._numbers: Any = weakref.WeakKeyDictionary()  # of storages
        self._next_number = itertools.count()
        self._values: Dict[int, Tuple[int, torch.UntypedStorage]] = {  # by storage: length of the log, values
            self._number(weight): (0, value.untyped_storage()) for weight, value in values.items()}

    @contextlib.contextmanager
    def following(self) -> Iterator['Timeline']:
        """See :meth:`Timeline.following`; NumPy and mmcv's compiled operators get values as well."""
        with _compiled_by_mmcv(self.value), _ForNumPy(self.value), super().following():
            yield self

    # ------------------------------------------------------------------------------------------------ operators

    def _call(self, func: Any, args: tuple, kwargs: dict) -> Any:
        packet = func.overloadpacket
        leaves = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        if not any(isinstance(x, FakeTensor) for x in leaves):
            return func(*args, **kwargs)
        if packet in _CONSTANTS and self._phase == 'forward':  # its values are known
            like, *rest = args
            return func(torch.empty_strided(like.shape, like.stride(), dtype=like.dtype), *rest, **kwargs)
        if packet is aten._fused_sdp_choice:
            return func(*tree_map(_tiny, args), **tree_map(_tiny, kwargs))
        if packet in _INDEXED:
            args = (args[0], self._as_positions(args[1]), *args[2:])
        if self._changes_values(func, leaves):
            return self._compute(func, args, kwargs)
        try:
            out = func(*args, **kwargs)
        except _DYNAMIC:
            return self._compute(func, args, kwargs)
        if self._phase == 'forward':
            self._record(func, args, kwargs, out)
        return out

    def _as_positions(self, indices: Sequence[Optional[Tensor]]) -> List[Optional[Tensor]]:
        """Replace masks by the positions that they select, whose number is known."""
        positions: List[Optional[Tensor]] = []
        for index in indices:
            if index is None or index.dtype not in (torch.bool, torch.uint8):
                positions.append(index)
            else:
                positions += self.value(index).nonzero().unbind(1)
        return positions

    @staticmethod
    def _changes_values(func: Any, leaves: Sequence[Tensor]) -> bool:
        """Whether the operator changes, in place, a tensor that has values."""
        argument = func._schema.arguments[0]
        return bool(argument.alias_info and argument.alias_info.is_write and not isinstance(leaves[0], FakeTensor)
                    and func._schema.returns)

    def _compute(self, func: Any, args: tuple, kwargs: dict) -> Any:
        return func(*tree_map(self.value, args), **tree_map(self.value, kwargs))

    # ------------------------------------------------------------------------------------------------ values

    def _number(self, x: Tensor) -> int:
        if x.layout is not torch.strided:
            raise ProblemError('the model makes sparse tensors, whose bytes depend on their values: its step cannot be '
                               'predicted', 'Train it without --memory-budget')
        storage = x.untyped_storage()
        if storage not in self._numbers:
            self._numbers[storage] = next(self._next_number)
        return self._numbers[storage]

    def _ref(self, x: Any) -> Any:
        if isinstance(x, FakeTensor):
            return _Ref(self._number(x), x.dtype, tuple(x.shape), tuple(x.stride()), int(x.storage_offset()))
        return x.detach().clone() if isinstance(x, Tensor) else x

    def _record(self, func: Any, args: tuple, kwargs: dict, out: Any) -> None:
        outputs = out if isinstance(out, (tuple, list)) else (out, )
        returns = func._schema.returns
        made, writes = [], set()
        for i, x in enumerate(outputs):
            if isinstance(x, FakeTensor):
                alias = returns[min(i, len(returns) - 1)].alias_info
                if alias is None:
                    made.append((i, self._ref(x)))
                elif alias.is_write:
                    writes.add(self._number(x))
        writes.update(ref.storage for _, ref in made)
        if not writes:
            return
        if func.overloadpacket in _PRODUCTS:
            self._log.append(_Write(None, (), {}, tuple(made), set(), writes))
            return
        args, kwargs = tree_map(self._ref, args), tree_map(self._ref, kwargs)
        reads = {x.storage for x in tree_flatten((args, kwargs))[0] if isinstance(x, _Ref)}
        self._log.append(_Write(func, args, kwargs, tuple(made), reads, writes))

    def value(self, x: Any) -> Any:
        """Return a tensor of the same shape with values for one without; anything else unchanged."""
        if not isinstance(x, FakeTensor):
            return x
        with torch._C._DisableTorchDispatch(), torch.no_grad():  # not part of the step
            return self._value(self._ref(x))

    def _value(self, ref: _Ref) -> Tensor:
        needed, entries = {ref.storage}, []
        for i in range(len(self._log) - 1, -1, -1):
            entry = self._log[i]
            wanted = {s for s in entry.writes & needed if self._values.get(s, (-1, ))[0] <= i}
            if wanted:
                entries.append((i, entry))
                needed |= entry.reads
                needed -= {made.storage for _, made in entry.outputs}
        for i, entry in reversed(entries):
            self._replay(i, entry)
        return self._at(ref)

    def _replay(self, i: int, entry: _Write) -> None:
        if entry.func is not None:
            out = entry.func(*self._real(entry.args), **self._real(entry.kwargs))
            outputs = out if isinstance(out, (tuple, list)) else (out, )
        for position, ref in entry.outputs:
            x = torch.empty_strided(ref.shape, ref.stride, dtype=ref.dtype)
            x.copy_(_noise(x) if entry.func is None else outputs[position])
            self._values[ref.storage] = i + 1, x.untyped_storage()
        for storage in entry.writes:
            if storage in self._values:
                self._values[storage] = i + 1, self._values[storage][1]

    def _real(self, args: Any) -> Any:
        return tree_map(lambda x: self._at(x) if isinstance(x, _Ref) else x, args)

    def _at(self, ref: _Ref) -> Tensor:
        if ref.storage not in self._values:  # an image or a weight
            last = ref.offset + sum((n - 1) * s for n, s in zip(ref.shape, ref.stride)) + 1
            self._values[ref.storage] = 0, _noise(torch.empty(last, dtype=ref.dtype)).untyped_storage()
        storage = self._values[ref.storage][1]
        return torch.empty(0, dtype=ref.dtype).set_(storage, ref.offset, ref.shape, ref.stride)


def _noise(x: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(x.numel())  # the step's own random state is unchanged
    return x.normal_(0, STAND_IN_SCALE, generator=generator) if x.is_floating_point() else x.zero_()


def _tiny(x: Any) -> Any:
    """A small tensor in place of one without values, for which PyTorch chooses the same operator."""
    if isinstance(x, Tensor):
        return torch.empty([min(n, 1) for n in x.shape[:2]] + list(x.shape[2:]), dtype=x.dtype,
                           requires_grad=x.requires_grad)
    return x


class _ForNumPy(TorchFunctionMode):
    """Gives values to tensors that are converted to NumPy or lists."""

    def __init__(self, value: Callable[[Any], Any]):
        super().__init__()
        self._value = value

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (Tensor.numpy, Tensor.__array__, Tensor.tolist):
            args = tree_map(self._value, args)
        return func(*args, **(kwargs or {}))


def _columns(image: Tensor, out: Tensor, area: int, images: int = 1) -> Tensor:
    """The patches of some images that a deformable convolution with kernels of this area multiplies at once."""
    return image.new_zeros(image.shape[1] * area, images * out.shape[2] * out.shape[3])


_GIVE_VALUES = ('nms', 'softnms', 'nms_match', 'nms_rotated')  # the others write to tensors that they are given
# What the others allocate while they run.
_TEMPORARY: Dict[str, Callable[..., Any]] = dict(
    deform_conv_forward=lambda x, weight, offset, out, *_, kW, kH, im2col_step, **__: (
        _columns(x, out, kW * kH, im2col_step), torch.zeros_like(out)),
    deform_conv_backward_input=lambda x, offset, grad, *_, kW, kH, im2col_step, **__: _columns(
        x, grad, kW * kH, im2col_step),
    deform_conv_backward_parameters=lambda x, offset, grad, *_, kW, kH, im2col_step, **__: (
        _columns(x, grad, kW * kH, im2col_step), torch.zeros_like(grad), torch.zeros_like(grad)),
    modulated_deform_conv_forward=lambda x, weight, bias, ones, offset, mask, out, *_, kernel_h, kernel_w, **__: (
        _columns(x, out, kernel_h * kernel_w)),
    modulated_deform_conv_backward=lambda x, *args, kernel_h, kernel_w, **_: _columns(x, args[11], kernel_h * kernel_w))


@contextlib.contextmanager
def _compiled_by_mmcv(value: Callable[[Any], Any]) -> Iterator[None]:
    """Let mmcv's compiled operators accept tensors without values: those that select boxes get values."""
    try:
        compiled = vars(importlib.import_module('mmcv._ext'))
    except ImportError:
        compiled = {}
    functions = {name: f for name, f in compiled.items() if callable(f) and not name.startswith('_')}

    def wrapped(name: str, function: Callable, *args: Any, **kwargs: Any) -> Any:
        if not any(isinstance(x, FakeTensor) for x in (*args, *kwargs.values())):
            return function(*args, **kwargs)
        if name in _GIVE_VALUES:
            return function(*map(value, args), **{key: value(x) for key, x in kwargs.items()})
        if name in _TEMPORARY:
            _TEMPORARY[name](*args, **kwargs)
        return None

    compiled.update({name: partial(wrapped, name, function) for name, function in functions.items()})
    try:
        yield
    finally:
        compiled.update(functions)
