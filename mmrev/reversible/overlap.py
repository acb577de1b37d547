"""Recompute the next step while the gradient of the current one is computed (PaReprop, Zhu and Mangalam 2023).

On CPUs a second thread recomputes. On accelerators steps alternate between two streams: autograd differentiates an
operator on the stream that it ran on, so gradient and next recomputation share the device.
"""
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack, _pop_mode, _push_mode

from mmrev import compat

_NAME = 'mmrev-overlap'
_threads: Dict[int, ThreadPoolExecutor] = {}  # by process, because a fork does not inherit threads
_begun: Dict[int, Future] = {}  # the task last submitted to the thread, by process
_sides: Dict[torch.device, Tuple[Any, Any]] = {}


def _thread() -> ThreadPoolExecutor:
    if os.getpid() not in _threads:
        _threads.clear()
        _threads[os.getpid()] = ThreadPoolExecutor(1, thread_name_prefix=_NAME)
    return _threads[os.getpid()]


def _is_thread() -> bool:
    return threading.current_thread().name.startswith(_NAME)


def settle() -> None:
    """Wait for a function that still runs ahead because its backward stopped early.

    Until it ends, it holds the random state and the training flags of the forward.
    """
    if not _is_thread() and os.getpid() in _begun:
        wait([_begun.pop(os.getpid())])


def obstacle(num_steps: int, device: torch.device) -> Optional[str]:
    """Why the steps of a sequence on ``device`` cannot be overlapped, or None."""
    if num_steps < 2:
        return 'there is only one step'
    if device.type not in ('cpu', 'meta', 'cuda', 'xpu'):
        return f'overlap is not implemented on {device.type}'
    try:
        collectives()
    except (AttributeError, RuntimeError) as error:
        return f'a process group does not count its collectives, so steps that communicate cannot be detected ({error})'
    return None


def is_distributed() -> bool:
    """Whether this process can communicate with others."""
    return dist.is_available() and dist.is_initialized()


def collectives() -> int:
    """How many collectives this process has begun, in all groups.

    A group may have one backend per device (``cpu:gloo,cuda:nccl``); each has its own count.

    Raises:
        RuntimeError: If a backend does not count its collectives.
    """
    if not is_distributed():
        return 0
    groups: Any = dist.distributed_c10d._world.pg_map
    return sum(group._get_backend(device)._get_sequence_number_for_group()
               for group in groups for device in group._device_types)


def run_ahead(device: torch.device) -> 'Union[AheadOnThread, AheadOnStreams]':
    """For the running backward, which settles it when it ends, even early."""
    ahead = AheadOnThread() if device.type in ('cpu', 'meta') else AheadOnStreams(device)
    torch.autograd.Variable._execution_engine.queue_callback(ahead.settle)
    return ahead


class AheadOnThread:
    """At most one function that runs ahead on a second thread, and its result."""

    replaced: Optional[List[Tensor]] = None  # on a CPU, memory is freed when its last reader releases it

    def __init__(self) -> None:
        self._future: Optional[Tuple[int, Future]] = None

    def start(self, index: int, function: Callable[[int], Any]) -> None:
        """Start ``function(index)``, unless called from a function that runs ahead, which would wait for itself."""
        if not _is_thread():
            run = copy_context().run  # with the context variables of the waiting thread
            future = _thread().submit(run, _with_modes, _get_current_dispatch_mode_stack(), function, index)
            self._future, _begun[os.getpid()] = (index, future), future

    def take(self, index: int, function: Callable[[int], Any]) -> Any:
        """The result of ``function(index)``, whether it ran ahead or runs now."""
        future, self._future = self._future, None
        if future is not None and _begun.get(os.getpid()) is future[1]:
            del _begun[os.getpid()]  # otherwise the result would stay alive until the backward ends
        if future is not None and future[0] == index:
            return future[1].result()
        return function(index)

    def settle(self) -> None:
        settle()


class AheadOnStreams:
    """Like :class:`AheadOnThread` on an accelerator: functions alternate between its two side streams.

    A side stream waits for the current one before a function, and the current one waits for it before the result is
    taken. PyTorch's autograd does the same around a gradient. So memory of one stream that another reads can be
    released once the current stream has waited; until then :attr:`replaced` holds it.

    Args:
        device: Device of the streams.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._accelerator = compat.get_device_module(device)
        self._begun: Optional[Tuple[int, Any, Any]] = None  # index, stream, result
        self._turn = 0
        self.replaced: List[Tensor] = []  # kept alive for the function that runs ahead

    def start(self, index: int, function: Callable[[int], Any]) -> None:
        """Start ``function(index)``, unless this is called from a function that runs ahead on these streams."""
        current, sides = self._accelerator.current_stream(self._device), _side_streams(self._device)
        if current in sides:
            return
        stream = sides[self._turn]
        self._turn = 1 - self._turn
        stream.wait_stream(current)
        self._begun = index, stream, None
        with self._accelerator.stream(stream):
            self._begun = index, stream, function(index)

    def take(self, index: int, function: Callable[[int], Any]) -> Any:
        """The result of ``function(index)``, whether it ran ahead or runs now."""
        begun = self._begun
        self.settle()
        return begun[2] if begun is not None and begun[0] == index else function(index)

    def settle(self) -> None:
        """Make the current stream wait for the function that runs ahead, then release :attr:`replaced`."""
        if self._begun is not None:
            self._accelerator.current_stream(self._device).wait_stream(self._begun[1])
            self._begun = None
        self.replaced.clear()


def _side_streams(device: torch.device) -> Tuple[Any, Any]:
    """Two streams of an accelerator, reused by every backward, because released memory stays with its stream."""
    if device not in _sides:
        stream = compat.get_device_module(device).Stream
        _sides[device] = stream(device), stream(device)
    return _sides[device]


def _with_modes(modes: List[Any], function: Callable[[int], Any], index: int) -> Any:
    """Run under the dispatch modes of the waiting thread, so that they (memory counters, for example) see the work."""
    for mode in modes:
        _push_mode(mode)
    try:
        return function(index)
    finally:
        for _ in modes:
            _pop_mode()
