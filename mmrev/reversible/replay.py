"""Running a function a second time exactly as it ran the first time.

A replay temporarily restores the weights, training flags, buffers, random state and modes of the forward. Because it
changes flags, the functions of a sequence run in one thread at a time.
"""
from functools import partial
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import torch
from torch import Tensor

from .errors import ReversibilityError
from .function import Function, Place, Weights, is_training
from .generators import Drawn, rewound
from .modes import Modes
from .notes import Notes
from .observe import Observer
from .streams import version

_ABSENT = object()


class Replay:
    """The state in which a function was evaluated. Construct it, run the function, then call :meth:`finish`.

    Args:
        function: The function to be evaluated.
        weights: The function's parameters.
        modes: Modes of this forward.
        keep_all: Copy all buffers, because it is not yet known which ones the function writes.
    """

    __slots__ = ('weights', 'notes', '_function', '_modes', '_state', '_draws', '_found', '_before', '_versions')

    def __init__(self, function: Function, weights: Weights, modes: Modes, keep_all: bool):
        self._function = function
        self._modes = modes
        self.weights = weights
        self._state = weights.state()
        self.notes = Notes() if function.takes_notes else None
        own = function.own_generators()
        self._draws: Drawn = [(g, None, g.get_state()) for g in own] if own else []
        self._found: Sequence[Optional[Tensor]] = []
        self._before: Dict[int, Tensor] = {}
        if keep_all:
            self._note_buffers(function.buffers + function.statistics(), True)
        elif function.buffers:
            self._note_buffers(function.buffers, False)

    def _note_buffers(self, places: Sequence[Place], keep_all: bool) -> None:
        found: List[Optional[Tensor]] = [owner.get(name) for owner, name in places]
        copies: Dict[int, Tensor] = {}  # a buffer that two modules share stays shared
        for i in range(len(found)) if keep_all else self._function.written:
            b = found[i]
            if b is not None:
                if id(b) not in copies:
                    copies[id(b)] = b.clone()
                self._before[i] = copies[id(b)]
        self._found = found
        self._versions = [-1 if b is None else version(b) for b in found]

    def finish(self, draws: Drawn, observer: Optional[Observer], step: Callable[[], str]) -> None:
        """Keep only what the function used or changed.

        Raises:
            ReversibilityError: If the function changes a parameter, or begins to change a buffer or to draw numbers.
        """
        function = self._function
        if observer is not None:
            known = {id(g) for g, _, _ in (*self._draws, *draws)}
            function.generators += [g for g in observer.generators if id(g) not in known]
            self._draws += [(g, None, state) for g, state in observer.generators.items() if id(g) not in known]
        self._draws += draws
        if observer is not None and (changed := self.weights.changed(self._state)) is not None:
            raise ReversibilityError(f'{step()} changes its parameter `{changed[0]}` itself, so it cannot be '
                                     f'evaluated again in the same way; change it outside of the function, or, if '
                                     f'this happens only once, run the network first under `torch.no_grad()`')
        if self._draws and observer is None and not function.draws and function.is_compiled():
            raise ReversibilityError(f'{step()} is compiled and drew random numbers, which it had not done before; '
                                     f'call `train()` on the network when the behavior of its functions changes')
        function.draws = function.draws or bool(self._draws)
        if observer is not None and self.notes is not None and not self.notes:
            function.takes_notes = False  # until the behavior of the function changes
        if len(self._found) > len(function.buffers):
            self._decide_statistics(observer)
        for i, b in enumerate(self._found):
            if b is None:
                continue
            owner, name = function.buffers[i]
            updated = observer is not None and (b.untyped_storage()._cdata in observer.updated or self._differs(i))
            # One that is replaced needs no copy: the replay puts the former tensor back.
            replaced = owner.get(name) is not b and i in self._before
            if not (updated or replaced or version(b) != self._versions[i]):
                continue
            if i not in self._before:
                raise ReversibilityError(
                    f'{step()} changed its buffer `{name}` (shape {tuple(b.shape)}), which it had not done before; '
                    f'call `train()` on the network when the behavior of its functions changes')
            function.written.add(i)

    def _decide_statistics(self, observer: Optional[Observer]) -> None:
        """Keep the running statistics of batch norms only if the function also reads them itself."""
        function = self._function
        known = len(function.buffers)
        means_and_vars = [b for (_, name), b in zip(function.statistics(), self._found[known:])
                          if b is not None and name != 'num_batches_tracked']
        if observer is not None and any(b.untyped_storage()._cdata in observer.read for b in means_and_vars):
            function.restore_statistics()
            self.notes = None
        else:
            self._found, self._versions = self._found[:known], self._versions[:known]
            self._before = {i: before for i, before in self._before.items() if i < known}

    def _differs(self, i: int) -> bool:
        """Whether a buffer on the CPU has another value, even with the same version, as after a change by NumPy."""
        b, before = self._found[i], self._before.get(i)
        if b is None or before is None or not type(b) is type(before) is Tensor or b.device.type != 'cpu':
            return False  # fake tensors have no value
        with torch._C._DisableTorchDispatch():  # a dispatch mode does not see our own bookkeeping
            return not torch.equal(b, before)

    def settle(self) -> None:
        """Release copies of buffers that no function has changed since; called after an observed forward."""
        self._before = {i: before for i, before in self._before.items()
                        for b in [self._found[i]]
                        if i in self._function.written or b is not None and version(b) != self._versions[i]}

    def run(self, f: Callable[..., Tensor], sources: Sequence[Tensor], has_modes: bool,
            step: Callable[[], str]) -> Tensor:
        """Evaluate ``f(*sources)`` in the recorded state, and restore the current state afterwards.

        Args:
            has_modes: Whether the recorded modes matter.
            step: Describes the step in messages.

        Raises:
            ReversibilityError: If a weight or a buffer was changed in place in the meantime.
        """
        self.check(step)
        rewinds = has_modes or self._draws
        run: Callable[..., Tensor] = partial(self.surround, self._run_rewound) if rewinds else self.surround
        return run(f, *sources) if self.notes is None else self.notes.read(run, f, *sources)

    def _run_rewound(self, f: Callable[..., Tensor], *sources: Tensor) -> Tensor:
        with rewound(self._draws), self._modes.active():
            return f(*sources)

    def surround(self, run: Callable[..., Any], *args: Any) -> Any:
        """Call ``run(*args)`` with the recorded flags, weights and buffers."""
        with self._function.running():
            changes = self._changes()
            if not changes:
                return run(*args)
            before = [(owner, name, owner.get(name, _ABSENT)) for owner, name, _ in changes]
            try:
                for owner, name, value in changes:
                    owner[name] = value
                return run(*args)
            finally:
                for owner, name, value in before:
                    if value is _ABSENT:
                        owner.pop(name, None)
                    else:
                        owner[name] = value

    def check(self, step: Callable[[], str]) -> None:
        """Raise an error if a weight or a buffer was changed in place since this was constructed."""
        changed = self.weights.changed(self._state)
        if changed is not None:
            name, p = changed
            raise ReversibilityError(
                f'the parameter `{name}` of {step()}, shape {tuple(p.shape)}, was modified in place, or its `data` '
                f'replaced, between forward and backward; run the backward before the optimizer steps')
        for i, b in enumerate(self._found):
            if b is not None and i not in self._before and version(b) != self._versions[i]:
                raise ReversibilityError(
                    f'the buffer `{self._function.buffers[i][1]}` of {step()}, shape {tuple(b.shape)}, was modified in '
                    f'place between forward and backward; run the backward first, or replace the buffer')

    def _changes(self) -> List[Tuple[Dict[str, Any], str, Any]]:
        """The differences from the recorded state: ``(owner, name, recorded value)``."""
        function, weights = self._function, self.weights
        changes: List[Tuple[Dict[str, Any], str, Any]] = []
        if list(map(is_training, function.modules)) != function.training:
            changes += [(m.__dict__, 'training', training) for m, training in zip(function.modules, function.training)]
        if function.untracked:
            changes += [(m.__dict__, 'track_running_stats', False) for m in function.untracked]
        if not weights.are_installed():
            changes += [(owner, name, p) for (owner, name), p in zip(weights.places, weights.found)]
        copies: Dict[int, Tensor] = {}
        for i, ((owner, name), found) in enumerate(zip(function.buffers, self._found)):
            before = self._before.get(i)
            if before is not None:
                changes.append((owner, name, copies.setdefault(id(before), before.clone())))
            elif owner.get(name) is not found:
                changes.append((owner, name, found))
        return changes
