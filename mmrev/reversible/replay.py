"""Running a function a second time exactly as it ran the first time.

A replay finds weights, training flags, buffers, random state and autocast as the forward found them, and leaves them
as they are now. The functions of a sequence run in one thread at a time, for a replay changes flags for a moment.
"""
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, ContextManager, Dict, Iterator, List, Optional, Sequence, Set, Tuple

import torch
from torch import Tensor, nn

from mmrev import compat

from .errors import ReversibilityError
from .generators import rewound
from .observe import Observer
from .streams import version

# In training their output does not depend on their running statistics, and with `track_running_stats` off they do not
# update them. Other classes of that kind say so by `skips_untracked_statistics = True`.
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class AutocastSnapshot:
    """Autocast as it is now, for the device types given.

    A weight that autocast casts without a graph must not be kept in its cache (a later use with a graph would find it
    there and lose its gradient), so everything here runs with ``cache_enabled=False``.
    """

    def __init__(self, device_types: Sequence[str]):
        self._settings = [(t, compat.is_autocast_enabled(t), compat.get_autocast_dtype(t)) for t in device_types]
        self._enabled = any(enabled for _, enabled, _ in self._settings)

    def active(self) -> ContextManager[Any]:
        return self._entered() if self.differs() else nullcontext()

    @contextmanager
    def _entered(self) -> Iterator[None]:
        with ExitStack() as stack:
            for device_type, enabled, dtype in self._settings:
                stack.enter_context(torch.autocast(device_type, dtype=dtype, enabled=enabled, cache_enabled=False))
            yield

    def differs(self) -> bool:
        """Whether autocast is on, now or then."""
        return self._enabled or any(compat.is_autocast_enabled(t) for t, _, _ in self._settings)


def walk(root: nn.Module) -> List[nn.Module]:
    """All modules of a tree, each once."""
    modules, seen = [root], {root}
    for m in modules:  # grows while it is walked
        for child in m._modules.values():
            if child is not None and child not in seen:
                seen.add(child)
                modules.append(child)
    return modules


class Function:
    """The modules of a step's function, and what is known of them until a flag, a hook or a module changes."""

    def __init__(self, f: nn.Module, lock: Any):
        self.lock = lock  # of the sequence: held while one of its functions runs
        self.modules = walk(f)
        self.training = [m.training for m in self.modules]
        self.untracked = [m for m in self.modules if m.training and _skips_untracked_statistics(m)]
        self._parameters = [(m._parameters, name) for m in self.modules for name in m._parameters]
        skipped = set(map(id, self.untracked))
        self.buffers = [(m._buffers, name) for m in self.modules if id(m) not in skipped for name in m._buffers]
        self.written: Set[int] = set()  # indices of buffers that a forward writes
        self.generators: List[torch.Generator] = []  # those that are given to operators by name

    def parameters(self) -> List[Tuple[Dict[str, Any], str, Tensor]]:
        found = [(owner, name, owner.get(name)) for owner, name in self._parameters]
        return [(owner, name, p) for owner, name, p in found if p is not None]


def _skips_untracked_statistics(m: nn.Module) -> bool:
    known = type(m) in _BATCH_NORMS or getattr(type(m), 'skips_untracked_statistics', False)
    return known and bool(m.track_running_stats)


class Replay:
    """What one evaluation of a function found; construct it, run the function, then :meth:`finish`.

    Args:
        keep_all: Copy all buffers, for what the function writes is not known yet.
    """

    def __init__(self, function: Function, autocast: AutocastSnapshot, keep_all: bool):
        self._function = function
        self._autocast = autocast
        self.parameters = function.parameters()
        self.weights = tuple({id(p): p for _, _, p in self.parameters if p.requires_grad}.values())
        self._states = [(version(p), p.untyped_storage()._cdata) for _, _, p in self.parameters]
        self._found = [owner.get(name) for owner, name in function.buffers]
        copied = range(len(self._found)) if keep_all else function.written
        copies: Dict[int, Tensor] = {}  # a buffer that two modules share stays shared
        for i in copied:
            b = self._found[i]
            if b is not None and id(b) not in copies:
                copies[id(b)] = b.clone()
        self._before = {i: copies[id(b)] for i in copied for b in [self._found[i]] if b is not None}
        self._versions = [-1 if b is None else version(b) for b in self._found]
        self._generators = [(g, None, g.get_state()) for g in function.generators]
        self._draws: List[Tuple[torch.Generator, Any, Any]] = []

    def finish(self, draws: List[Tuple[torch.Generator, Any, Any]], observer: Optional[Observer], step: str) -> None:
        """Keep only what the function used or changed.

        Raises:
            ReversibilityError: If it writes a buffer that it left alone so far.
        """
        function = self._function
        if observer is not None:
            known = {id(g) for g in function.generators} | {id(g) for g, _, _ in draws}
            function.generators += [g for g in observer.generators if id(g) not in known]
            self._generators += [(g, None, state) for g, state in observer.generators.items() if id(g) not in known]
        self._draws = self._generators + draws
        for i, (owner, name) in enumerate(function.buffers):
            b = self._found[i]
            if b is None:
                continue
            updated = observer is not None and b.untyped_storage()._cdata in observer.updated
            if owner.get(name) is b and version(b) == self._versions[i] and not updated:
                continue
            if i not in self._before:
                raise ReversibilityError(
                    f'{step} changed its buffer `{name}` (shape {tuple(b.shape)}), which it had not done before; call '
                    f'`train()` on the network when its functions begin to behave in another way')
            function.written.add(i)

    def settle(self) -> None:
        """Keep copies only of buffers that some function has changed since; once per forward that is observed."""
        self._before = {i: before for i, before in self._before.items()
                        for b in [self._found[i]]
                        if i in self._function.written or b is not None and version(b) != self._versions[i]}

    @contextmanager
    def again(self, step: str) -> Iterator[None]:
        """The function's surroundings as they were; afterwards as they are now.

        Raises:
            ReversibilityError: If a weight or a buffer was changed in place in the meantime.
        """
        self._check(step)
        with self._function.lock:
            undo = self._install()
            try:
                if self._draws or self._autocast.differs():
                    with rewound(self._draws), self._autocast.active():
                        yield
                else:
                    yield
            finally:
                for owner, name, value in undo:
                    owner[name] = value

    def _check(self, step: str) -> None:
        for (_, name, p), (expected, storage) in zip(self.parameters, self._states):
            if version(p) != expected or p.untyped_storage()._cdata != storage:
                raise ReversibilityError(
                    f'the parameter `{name}` of {step}, shape {tuple(p.shape)}, was modified in place between forward '
                    f'and backward; run the backward before the optimizer steps')
        for i, (b, expected) in enumerate(zip(self._found, self._versions)):
            if b is not None and i not in self._before and version(b) != expected:
                raise ReversibilityError(
                    f'the buffer `{self._function.buffers[i][1]}` of {step}, shape {tuple(b.shape)}, was modified in '
                    f'place between forward and backward; run the backward first, or replace the buffer')

    def _install(self) -> List[Tuple[Dict[str, Any], str, Any]]:
        """Returns what puts everything back: ``(owner, name, value)``."""
        function = self._function
        undo: List[Tuple[Dict[str, Any], str, Any]] = []

        def put(owner: Any, name: str, value: Any) -> None:
            undo.append((owner, name, owner.get(name)))
            owner[name] = value

        for m, training in zip(function.modules, function.training):
            if m.training is not training:
                put(m.__dict__, 'training', training)
        for m in function.untracked:
            put(m.__dict__, 'track_running_stats', False)
        for owner, name, p in self.parameters:
            if owner.get(name) is not p:
                put(owner, name, p)
        copies: Dict[int, Tensor] = {}
        for i, (owner, name) in enumerate(function.buffers):
            before = self._before.get(i)
            if before is not None:
                put(owner, name, copies.setdefault(id(before), before.clone()))
            elif owner.get(name) is not self._found[i]:
                put(owner, name, self._found[i])
        undo.reverse()
        return undo
