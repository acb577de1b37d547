"""Random state: which generators a function drew from, and how to rewind them for its replay."""
import ctypes
import os
from contextlib import contextmanager, nullcontext
from typing import Any, ContextManager, Dict, Iterator, List, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mmrev import compat

from .errors import ReversibilityError

Drawn = List[Tuple[torch.Generator, Any, Any]]  # a generator, and its state and position before it was drawn from

_compare = ctypes.CDLL('msvcrt' if os.name == 'nt' else None).memcmp
_compare.argtypes = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t


def default_generators(tensors: Sequence[Tensor]) -> List[torch.Generator]:
    """The default generators for a function of ``tensors``: the CPU's, and that of each device."""
    found = [torch.default_generator]
    for device in sorted({x.device for x in tensors if x.device.type not in ('cpu', 'meta')}, key=str):
        module = compat.get_device_module(device)
        generators = getattr(module, 'default_generators', ())
        if generators and not _is_capturing(device):
            found.append(generators[module.current_device() if device.index is None else device.index])
    return found


def _is_capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured, during which a generator can be neither read nor rewound."""
    return device.type == 'cuda' and torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def _place(generator: torch.Generator) -> Any:
    """Position of a generator: its offset on a GPU, elsewhere its state."""
    if compat.GENERATORS_HAVE_OFFSETS and generator.device.type == 'cuda':
        return generator.get_offset()
    return generator.get_state()


def _differ(a: Any, b: Any) -> bool:
    """Whether two positions of a generator differ."""
    if isinstance(a, int):
        return bool(a != b)
    return bool(_compare(a.data_ptr(), b.data_ptr(), a.numel()))  # `torch.equal` takes ten times as long


class _CapturedDraws(TorchDispatchMode):
    """Refuses random numbers from a default generator, which a replay could not rewind."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Tuple = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _draws_by_default(func, args, kwargs):
            raise ReversibilityError(
                f'`{func}` draws random numbers while a CUDA graph is captured; no generator can be rewound then, so '
                f'the backward would differ. Train without dropout and drop path, or set `reversible=False`')
        return func(*args, **kwargs)


def _draws_by_default(func: Any, args: Tuple, kwargs: Dict[str, Any]) -> bool:
    """Whether an operator draws from a default generator. Dropout with probability 0 does not."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    given = {argument.name: argument.default_value for argument in func._schema.arguments}
    given.update({argument.name: x for argument, x in zip(func._schema.arguments, args)}, **kwargs)
    return given.get('generator') is None and given.get('dropout_p') != 0 and given.get('p') != 0


def drawn_by_default(func: Any, args: Tuple, kwargs: Dict[str, Any]) -> Optional[torch.Generator]:
    """The default generator that an operator draws from, if it does."""
    if not _draws_by_default(func, args, kwargs):
        return None
    tensors = [x for x in args if isinstance(x, Tensor)]
    if not tensors:
        tensors = [torch.empty(0, device=kwargs.get('device') or 'cpu')]
    return default_generators(tensors[:1])[-1]


def refusing_captured_draws(tensors: Sequence[Tensor]) -> ContextManager[Any]:
    """Refuse functions that draw random numbers while a CUDA graph is captured; otherwise do nothing.

    Raises:
        ReversibilityError: Naming the operator.
    """
    return _CapturedDraws() if any(_is_capturing(x.device) for x in tensors) else nullcontext()


class Draws:
    """Tracks the default generators through one forward, step by step."""

    def __init__(self, streams: Sequence[Tensor]):
        self._generators = default_generators(streams)
        self._states = [None if g.device.type == 'cpu' else g.get_state() for g in self._generators]
        self._places = [_place(g) for g in self._generators]

    def used(self) -> Drawn:
        """The generators that were drawn from since the last call, for :func:`rewound`."""
        found = []
        for i, generator in enumerate(self._generators):
            now, before = _place(generator), self._places[i]
            if _differ(now, before):
                found.append((generator, self._states[i], before))
                self._places[i] = now
        return found


@contextmanager
def rewound(draws: Drawn) -> Iterator[None]:
    """Rewind generators within the block; restore their current states afterwards.

    Args:
        draws: Generators with the states and positions to rewind to.
    """
    now: Dict[torch.Generator, Tensor] = {generator: generator.get_state() for generator, _, _ in draws}
    try:
        for generator, state, place in draws:
            if isinstance(place, int):
                generator.set_state(state)
                generator.set_offset(place)
            else:
                generator.set_state(place)
        yield
    finally:
        for generator, state in now.items():
            generator.set_state(state)
