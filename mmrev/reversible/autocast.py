"""The autocast state of a forward."""
from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Iterator, Sequence

import torch

from mmrev import compat


def without_cache(run: Callable[..., Any], *args: Any) -> Any:
    """``run(*args)`` without autocast's cache, which would keep the leaves that it casts."""
    enabled = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        return run(*args)
    finally:
        torch.set_autocast_cache_enabled(enabled)


class AutocastSnapshot:
    """The current autocast state for the given device types.

    A weight that autocast casts without a graph must not be kept in its cache (a later use with a graph would find it
    there and lose its gradient), so everything here runs with ``cache_enabled=False``.
    """

    def __init__(self, device_types: Sequence[str]):
        self._types = device_types
        self._enabled = [compat.is_autocast_enabled(t) for t in device_types]
        self._settings = [(t, on, compat.get_autocast_dtype(t)) for t, on in zip(device_types, self._enabled)]

    @contextmanager
    def active(self) -> Iterator[None]:
        with ExitStack() as stack:
            for device_type, enabled, dtype in self._settings:
                stack.enter_context(torch.autocast(device_type, dtype=dtype, enabled=enabled, cache_enabled=False))
            yield

    def matters(self) -> bool:
        """Whether autocast is enabled now in this thread, or was enabled when this was taken."""
        return True in self._enabled or True in map(compat.is_autocast_enabled, self._types)
