"""Bytes of live tensors, on any device."""
import threading
from functools import partial
from typing import Any, Callable, Dict

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from mmrev.compat import notice_freed, when_freed


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of every tensor made within the context, from the operator that made it until it is freed.

    Neither the workspace within an operator nor the reserve of an allocator is counted. The figure therefore does not
    depend on device, allocator or library, and is reproducible.

    Attributes:
        peak: Most bytes alive at the same time since the context began, or since :meth:`reset_peak`.

    Example:
        >>> with PeakMemory() as memory:
        ...     model(x).sum().backward()
        >>> memory.peak
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._current = 0
        self._alive: Dict[int, Any] = {}
        self._lock = threading.RLock()

    @property
    def current(self) -> int:
        """Bytes alive now."""
        with self._lock:
            notice_freed(self._alive.values())
            return self._current

    def reset_peak(self) -> None:
        self.peak = self.current

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        returns = func._schema.returns
        made = (out, ) if len(returns) == 1 else out or ()
        for x, returned in zip(made, returns):
            if returned.alias_info is None:  # neither a view of an argument nor the argument itself
                tree_map_only(Tensor, self._count, x)
        return out

    def _count(self, x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        key = storage._cdata
        with self._lock:
            if key not in self._alive:
                notice_freed(self._alive.values())
                size = storage.nbytes()
                self._alive[key] = when_freed(storage, partial(self._free, key, size))
                self._current += size
                self.peak = max(self.peak, self._current)
        return x

    def _free(self, key: int, size: int, _: Any) -> None:
        with self._lock:
            del self._alive[key]
            self._current -= size


def bytes_per_sample(step: Callable[[int], Any], small: int = 1, large: int = 2) -> float:
    """Peak bytes per sample of a training step: the slope between two batch sizes.

    Whatever does not depend on the batch (weights, their gradients) cancels.

    Args:
        step: Runs forward and backward on a batch of the given size.
        small: The smaller batch size.
        large: The larger one.
    """
    peaks = []
    for batch_size in (small, large):
        with PeakMemory() as memory:
            step(batch_size)
        peaks.append(memory.peak)
    return (peaks[1] - peaks[0]) / (large - small)
