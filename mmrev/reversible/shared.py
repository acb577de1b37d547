"""What sequences share across threads: all that have a module in common run its functions under one lock."""
import threading
import weakref
from typing import Any, Iterable, Set

from torch import nn

from .running import Running

_WAIT_SECONDS = 10.  # for a function that runs in another thread


class Shared:
    """State of all calls of a sequence, and of other sequences over its couplings.

    Attributes:
        lock: Held while a function runs. :func:`share_lock` may replace it, so read it anew each time.
        backwards: The running backwards, by ``id``.
    """

    def __init__(self) -> None:
        self.lock: Any = threading.RLock()
        self.backwards: 'Running[int, Any]' = Running()


_changing = threading.Lock()
_all: 'weakref.WeakSet[Shared]' = weakref.WeakSet()
_of_coupling: 'weakref.WeakKeyDictionary[nn.Module, Shared]' = weakref.WeakKeyDictionary()
_of_module: 'weakref.WeakKeyDictionary[nn.Module, Shared]' = weakref.WeakKeyDictionary()  # within functions


def shared_by(couplings: nn.ModuleList) -> Shared:
    """The state of sequences over these couplings, or over one of them."""
    with _changing:  # two threads may make their first calls at once
        shared = next(filter(None, map(_of_coupling.get, couplings)), None) or Shared()
        _all.add(shared)
        for coupling in couplings:
            _of_coupling.setdefault(coupling, shared)
    share_lock(shared, couplings.modules())
    return shared


def share_lock(shared: Shared, modules: Iterable[nn.Module]) -> None:
    """Let all sequences with one of these modules use one lock, because a replay changes a module's flags.

    A thread that waits for a former lock meanwhile still runs its next function under that one.

    Args:
        shared: State of a sequence.
        modules: Those of its functions, with those of sequences among them.
    """
    with _changing:
        sharing: Set[Shared] = {shared, *(_of_module.setdefault(m, shared) for m in modules)}
    locks = {each.lock for each in sharing}
    if len(locks) == 1:
        return
    kept = next((lock for lock in locks if lock._is_owned()), None) or (locks - {shared.lock}).pop()
    for lock in locks - {kept}:
        ended = lock.acquire(timeout=_WAIT_SECONDS)  # longer only if two threads wait for each other
        with _changing:
            for each in [each for each in _all if each.lock is lock]:
                each.lock = kept
        if ended:
            lock.release()
