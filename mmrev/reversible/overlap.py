"""Doing the next step's recomputation while this one's gradient is computed (PaReprop, Zhu and Mangalam 2023).

On CPUs a second thread recomputes. On accelerators steps alternate between two streams: autograd differentiates an
operator on the stream that it ran on, so gradient and next recomputation share the device.
"""
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack, _pop_mode, _push_mode

from mmrev import compat

_NAME = 'mmrev-overlap'
_threads: Dict[int, ThreadPoolExecutor] = {}  # by process, for a fork takes no thread along
_begun: Dict[int, Future] = {}  # what the thread was given last, by process


def _thread() -> ThreadPoolExecutor:
    if os.getpid() not in _threads:
        _threads.clear()
        _threads[os.getpid()] = ThreadPoolExecutor(1, thread_name_prefix=_NAME)
    return _threads[os.getpid()]


def _is_thread() -> bool:
    return threading.current_thread().name.startswith(_NAME)


def settle() -> None:
    """Wait for what still runs ahead: a backward that stopped early has nobody who takes it.

    Until then it holds random state and training flags as they were in the forward.
    """
    if not _is_thread() and os.getpid() in _begun:
        wait([_begun.pop(os.getpid())])


def obstacle(num_steps: int, device: torch.device) -> Optional[str]:
    """Why the steps of a sequence on ``device`` cannot be overlapped, if so."""
    if num_steps < 2:
        return 'there is one step alone'
    if device.type not in ('cpu', 'meta', 'cuda', 'xpu'):
        return f'not known how on {device.type}'
    return None


def collectives() -> int:
    """How many collectives this process has begun, in all groups."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0
    return sum(group._get_sequence_number_for_group()  # type: ignore[attr-defined]
               for group in dist.distributed_c10d._world.pg_map)


class Ahead:
    """At most one function that runs ahead, and its result.

    Args:
        device: Of the streams.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._future: Optional[Tuple[int, Future]] = None
        self._queues: List[Any] = []  # streams of an accelerator
        self._turn = 0

    def start(self, index: int, function: Callable[[int], Any]) -> None:
        """Begin ``function(index)``; not within another that runs ahead, which would wait for itself."""
        if self._device.type in ('cpu', 'meta'):
            if not _is_thread():
                future = _thread().submit(_with_modes, _get_current_dispatch_mode_stack(), function, index)
                self._future, _begun[os.getpid()] = (index, future), future
            return
        self._future = index, Future()
        with self.queue():
            self._future[1].set_result(function(index))

    def take(self, index: int, function: Callable[[int], Any]) -> Any:
        """The result of ``function(index)``, whether it ran ahead or runs now."""
        future, self._future = self._future, None
        if future is not None and _begun.get(os.getpid()) is future[1]:
            del _begun[os.getpid()]  # or the result would be kept until the backward ends
        if future is not None and future[0] == index:
            return future[1].result()
        return function(index)

    @contextmanager
    def queue(self) -> Iterator[None]:
        """The accelerator's stream whose turn it is, after all that the current one and the other were given."""
        accelerator = compat.get_device_module(self._device)
        if not self._queues:
            self._queues = [accelerator.Stream(self._device) for _ in range(2)]
        stream, other = self._queues[self._turn], self._queues[1 - self._turn]
        self._turn = 1 - self._turn
        stream.wait_stream(accelerator.current_stream(self._device))
        stream.wait_stream(other)
        with accelerator.stream(stream):
            yield

    def share(self, tensors: List[Optional[Tensor]]) -> None:
        """Tell the allocator that all streams of the accelerator use these tensors."""
        if self._device.type in ('cpu', 'meta'):
            return
        current = compat.get_device_module(self._device).current_stream(self._device)
        for x in tensors:
            if x is not None:
                for stream in (*self._queues, current):
                    x.record_stream(stream)


def _with_modes(modes: List[Any], function: Callable[[int], Any], index: int) -> Any:
    """Under the dispatch modes of the thread that waits, so that these see the work (memory counters, for one)."""
    for mode in modes:
        _push_mode(mode)
    try:
        return function(index)
    finally:
        for _ in modes:
            _pop_mode()
