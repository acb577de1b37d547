"""Which backwards of a sequence run now: hooks on weights are off meanwhile, which another thread's would miss."""
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
        self._has_hooks = False  # until a weight is seen with some
        running[id(self)] = self

    def others(self) -> List['Backward']:
        """Those of other threads."""
        if len(self._running) == 1:
            return []
        # A copy of the references, for other threads add theirs meanwhile.
        running = [reference() for reference in self._running.valuerefs()]
        return [other for other in running if other is not None and other._task != self._task]

    def refuse(self, others: Sequence['Backward'], describe: Callable[[], str]) -> None:
        """Refuse to go on beside others where weights have hooks.

        Args:
            others: Those of other threads that ran before the hooks were looked at.
            describe: Names the step.

        Raises:
            ReversibilityError: If one of them has seen hooks.
        """
        if any(backward._has_hooks for backward in (self, *others)):
            raise ReversibilityError(f'two backwards of a sequence with hooks on weights run at once, in two threads '
                                     f'or one within the other ({describe()}); run one after the other')

    def saw_hooks(self) -> None:
        """Weights have hooks: this one counts as running until its task ends, for they run after the last node."""
        if not self._has_hooks:
            self._has_hooks = True
            torch.autograd.Variable._execution_engine.queue_callback(self.end)

    def leave(self) -> None:
        """The last node returns."""
        if not self._has_hooks:
            self.end()

    def end(self) -> None:
        """It does not run any more."""
        self._running.pop(id(self), None)
