"""The modes of a forward: autocast, and function modes such as a default device."""
from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Iterator, List, Sequence

import torch
from torch.overrides import _get_current_function_mode_stack, _pop_mode, _push_mode

from mmrev import compat


def without_cache(run: Callable[..., Any], *args: Any) -> Any:
    """``run(*args)`` without autocast's cache, which would keep the leaves that it casts."""
    enabled = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        return run(*args)
    finally:
        torch.set_autocast_cache_enabled(enabled)


class Modes:
    """The current modes, with autocast for the given device types.

    ``Tensor.backward`` suspends function modes (``with torch.device(...)``, ``torch.set_default_device``).

    A weight that autocast casts without a graph must not be kept in its cache (a later use with a graph would find it
    there and lose its gradient), so everything here runs with ``cache_enabled=False``.
    """

    def __init__(self, device_types: Sequence[str]):
        self._types = device_types
        self._enabled = [compat.is_autocast_enabled(t) for t in device_types]
        self._settings = [(t, on, compat.get_autocast_dtype(t)) for t, on in zip(device_types, self._enabled)]
        self._functions = _get_current_function_mode_stack()

    @contextmanager
    def active(self) -> Iterator[None]:
        with ExitStack() as stack:
            for device_type, enabled, dtype in self._settings:
                stack.enter_context(torch.autocast(device_type, dtype=dtype, enabled=enabled, cache_enabled=False))
            if self._functions != _get_current_function_mode_stack():
                stack.callback(_set_function_modes, _set_function_modes(self._functions))
            yield

    def matters(self) -> bool:
        """Whether a mode is active now in this thread, or was active when this was taken."""
        return (True in self._enabled or bool(self._functions) or torch._C._len_torch_function_stack() > 0
                or True in map(compat.is_autocast_enabled, self._types))


def _set_function_modes(modes: Sequence[Any]) -> List[Any]:
    """Replace the function modes of this thread, and return the former ones."""
    former = [_pop_mode() for _ in range(torch._C._len_torch_function_stack())][::-1]
    for mode in modes:
        _push_mode(mode)
    return former
