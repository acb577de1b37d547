"""A step's function: its modules, and facts about them that hold until a flag, a hook or a module changes."""
from contextlib import contextmanager
from itertools import chain
from operator import attrgetter, is_
from typing import Any, Callable, ContextManager, Dict, Iterable, Iterator, List, Optional, Sequence, Set, Tuple

import torch
from torch import Tensor, nn

from mmrev import compat

from .errors import ReversibilityError
from .shared import Shared

Place = Tuple[Dict[str, Any], str]  # a module's dictionary of parameters or buffers, and a name in it

# In training their output does not depend on their running statistics, and with `track_running_stats` off they do not
# update them. Other such classes declare `skips_untracked_statistics = True`.
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

requires_grad, is_training = attrgetter('requires_grad'), attrgetter('training')
_version, _storage = attrgetter('_version'), Tensor.untyped_storage


def walk(root: nn.Module) -> List[nn.Module]:
    """All modules of a tree, each once."""
    modules, seen = [root], {root}
    for m in modules:  # grows during the loop
        for child in m._modules.values():
            if child is not None and child not in seen:
                seen.add(child)
                modules.append(child)
    return modules


_END = object()


class Weights:
    """The parameters of a function at one evaluation.

    Args:
        modules: Modules of the function.
    """

    # The methods run twice per step for every weight, each time after a function has filled the processor's caches:
    # few objects, and functions written in C.
    __slots__ = 'places', 'found', 'computed', 'trained', '_values', '_expected', '_present', '_versioned', '_flags'

    def __init__(self, modules: Sequence[nn.Module]):
        self.places: List[Place] = [(m._parameters, name) for m in modules for name in m._parameters]
        self.found: List[Optional[Tensor]] = [owner[name] for owner, name in self.places]
        self._values: List[Iterable[Any]] = [m._parameters.values() for m in modules if m._parameters]  # live views
        self._values.append((_END, ))  # out of place when a module has more or fewer parameters
        self._expected = [*self.found, _END]
        self._present = [p for p in self.found if p is not None]
        versioned = [p for p in self._present if not p.is_inference()]
        self._versioned = self._present if len(versioned) == len(self._present) else versioned
        self._flags = [p.requires_grad for p in self._present]
        self.computed = [p for p in self._present if p.grad_fn is not None]  # as `functional_call` may pass them
        self.trained = {id(p): p for p in self._present if p.requires_grad}

    def are_installed(self) -> bool:
        """Whether these tensors are the function's parameters now."""
        return all(map(is_, chain.from_iterable(self._values), self._expected))

    def is_current(self) -> bool:
        """Whether the parameters, and which of them require grad, are unchanged."""
        return self.are_installed() and list(map(requires_grad, self._present)) == self._flags

    def state(self) -> Tuple[List[int], List[torch.UntypedStorage]]:
        """Versions and storages; they change when a value is written or a tensor's ``data`` is replaced.

        Storages are returned, not their ids, because an id may be reused. Their memory may be freed and refilled, as
        FSDP2 does.
        """
        return list(map(_version, self._versioned)), list(map(_storage, self._present))

    def changed(self, before: Tuple[List[int], List[torch.UntypedStorage]]) -> Optional[Tuple[str, Tensor]]:
        """Name and value of the first parameter whose :meth:`state` has changed, or None."""
        if before == self.state():
            return None
        kept = dict(zip(map(id, self._present), before[1]))
        versions = dict(zip(map(id, self._versioned), before[0]))
        # Before PyTorch 2.2 one storage has many objects.
        return next(((name, p) for (_, name), p in zip(self.places, self.found) if p is not None and (
            p._version != versions.get(id(p), p._version) or p.untyped_storage()._cdata != kept[id(p)]._cdata)), None)


class Function:
    """The modules of a step's function.

    Args:
        f: The function.
        shared: Has the lock that is held while a function runs, because a replay temporarily changes flags.
    """

    __slots__ = ('shared', 'modules', 'training', 'untracked', 'buffers', 'written', 'generators', 'recomputes',
                 'takes_notes', 'draws', 'enables_grad', '_generator_places', '_weights')

    def __init__(self, f: nn.Module, shared: Shared):
        self.shared = shared
        self.modules = walk(f)
        self.training = [m.training for m in self.modules]
        self.untracked = [m for m in self.modules if m.training and _skips_untracked_statistics(m)]
        skipped = set(map(id, self.untracked))
        self.buffers: List[Place] = [(m._buffers, name) for m in self.modules if id(m) not in skipped
                                     for name in m._buffers]
        self.written: Set[int] = set()  # indices of buffers that a forward writes
        self.generators: List[torch.Generator] = []  # those that were passed to operators
        self._generator_places: List[Place] = [(m.__dict__, name) for m in self.modules for name, x in vars(m).items()
                                               if isinstance(x, torch.Generator)]
        self.recomputes = False  # in its own backward as well, like a checkpoint
        self.takes_notes = bool(self.untracked)  # on the statistics of its batch norms
        self.draws = False  # random numbers; compiled code draws different ones with and without a graph
        self.enables_grad = False  # its output requires grad even under no_grad
        self._weights: Optional[Weights] = None

    def own_generators(self) -> List[torch.Generator]:
        """Generators that were passed to operators, and those that are attributes of modules."""
        if not self._generator_places:
            return self.generators
        found = {id(g): g for g in self.generators}
        found.update((id(g), g) for g in [owner.get(name) for owner, name in self._generator_places]
                     if isinstance(g, torch.Generator))
        return list(found.values())

    def statistics(self) -> List[Place]:
        """The running statistics that a replay does not touch."""
        return [(m._buffers, name) for m in self.untracked for name in m._buffers]

    def restore_statistics(self) -> None:
        """Make replays restore the running statistics of the forward, because the function reads them."""
        self.buffers += self.statistics()
        self.untracked = []
        self.takes_notes = False  # they are updated again

    def running(self) -> ContextManager[Any]:
        """The context in which the function must be evaluated."""
        return self._running_eagerly() if self.draws else self.shared.lock

    @contextmanager
    def _running_eagerly(self) -> Iterator[None]:
        with self.shared.lock, compat.eagerly():
            yield

    def has_hooks(self) -> bool:
        """Whether forward hooks see tensors of the function."""
        return compat.has_global_hooks() or any(m._forward_hooks or m._forward_pre_hooks for m in self.modules)

    def is_compiled(self) -> bool:
        return any(m._compiled_call_impl is not None for m in self.modules)

    def weights(self) -> Weights:
        """The current parameters; returns the same object until they change."""
        weights = self._weights
        if weights is None or not weights.is_current():
            weights = self._weights = Weights(self.modules)
        return weights


def share_written(functions: Sequence[Function], descriptions: Sequence[Callable[[], str]]) -> None:
    """Mark a buffer that one function writes as written in all functions that share it.

    Raises:
        ReversibilityError: If a written buffer is a view of another, which a replay would restore as two tensors.
    """
    written = {id(owner[name]) for f in functions for i, (owner, name) in enumerate(f.buffers) if i in f.written}
    for f in functions:
        f.written |= {i for i, (owner, name) in enumerate(f.buffers) if id(owner.get(name)) in written}
    for f, describe in zip(functions, descriptions):
        by_storage: Dict[int, Tuple[Tensor, str]] = {}
        for owner, name in [f.buffers[i] for i in sorted(f.written)]:
            b = owner.get(name)
            if b is None or b.layout is not torch.strided:
                continue
            other, other_name = by_storage.setdefault(b.untyped_storage()._cdata, (b, name))
            if other is not b:
                raise ReversibilityError(f'the buffers `{other_name}` and `{name}` of {describe()}, which writes them, '
                                         f'share memory; register one of them, and take the other from it in `forward`')


def _skips_untracked_statistics(m: nn.Module) -> bool:
    known = type(m) in _BATCH_NORMS or getattr(type(m), 'skips_untracked_statistics', False)
    # Do not check `track_running_stats`: it is off if a nested sequence is first seen during a replay.
    return known and m.running_mean is not None
