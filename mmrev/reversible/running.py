"""Track which backwards of a sequence are running: each disables weight hooks, which another thread would miss."""
import weakref
from typing import Any, Callable, List, Sequence

import torch

from .errors import ReversibilityError

Running = weakref.WeakValueDictionary  # of backwards, by their `id`


class Backward:
    """A backward from its first node until autograd has run the hooks on its last gradients.

    Args:
        running: The backwards of the same sequence.
    """

    def __init__(self, running: 'Running[int, Any]'):
        self._running = running
        self._task = torch._C._current_graph_task_id()
        self._has_hooks = False  # until a weight with hooks is seen
        running[id(self)] = self

    @classmethod
    def begin(cls, running: 'Running[int, Any]') -> 'Backward':
        """A backward that autograd keeps until its task has ended, also by an error or before the last node."""
        backward = cls(running)
        if backward._task < 0:
            return backward
        torch.autograd.Variable._execution_engine.queue_callback(backward.end)
        return weakref.proxy(backward)

    def others(self) -> List['Backward']:
        """The running backwards of other threads."""
        if len(self._running) == 1:
            return []
        # Copy the references, because other threads may add theirs at the same time.
        running = [reference() for reference in self._running.valuerefs()]
        return [other for other in running if other is not None and other._task != self._task]

    def refuse(self, others: Sequence['Backward'], describe: Callable[[], str]) -> None:
        """Refuse to run at the same time as others if weights have hooks.

        Args:
            others: Backwards of other threads that were running before the hooks were read.
            describe: Names the step.

        Raises:
            ReversibilityError: If this backward or one of the others has seen hooks.
        """
        if any(backward._has_hooks for backward in (self, *others)):
            raise ReversibilityError(f'two backwards of a sequence with hooks on weights run at once, in two threads '
                                     f'or one within the other ({describe()}); run one after the other')

    def saw_hooks(self) -> None:
        """Note that weights have hooks: they run after the last node, so this counts as running until its task ends."""
        self._has_hooks = True

    def leave(self) -> None:
        """End here, when the last node returns, unless weights have hooks."""
        if not self._has_hooks:
            self.end()

    def end(self) -> None:
        """Remove this backward from the running ones."""
        self._running.pop(id(self), None)
