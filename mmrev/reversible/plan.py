"""The steps of a sequence, planned once: segments, what each step keeps, and which streams the undo must restore."""
import sys
from functools import partial
from itertools import chain
from typing import Any, FrozenSet, Iterable, List, Optional, Sequence, Set, Tuple

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from mmrev import compat

from .coupling import Coupling
from .errors import FSDP, ReversibilityError
from .function import Function, walk
from .keep import GRAPH, STATE, UNDO, Keep, resolve_keep
from .shared import Shared
from .signature import Signature
from .step import AdditiveStep

# Weights of the couplings that share a node, which itself takes tens of microseconds, as long as some small operators.
# What waits for gradients hardly waits longer: DDP reduces 1 MiB at first, then 25 MiB at a time.
NODE_BYTES = 2**20


class Plan:
    """What forward and backward know about a sequence; valid until one of its flags, hooks or modules changes.

    Args:
        root: The sequence, whose couplings return the steps.
        keep: What each step keeps, see :class:`~mmrev.reversible.ReversibleSequence`.
        cache_every: Keep states before every ``cache_every``-th coupling.
        drops_graphs: Whether graphs would not be kept, but computed again by a checkpoint; their steps are undone.
        shared: State shared with earlier plans.
    """

    def __init__(self, root: nn.Module, couplings: Iterable[nn.Module], keep: Keep, cache_every: Optional[int],
                 drops_graphs: bool, shared: Shared):
        self.settings = (keep, cache_every, drops_graphs)
        self.steps: List[AdditiveStep] = []
        self.segments: List[Tuple[nn.Module, int, int]] = []  # of a node of autograd's graph: first coupling, steps
        states = []
        for i, coupling in enumerate(couplings):
            start = len(self.steps)
            if cache_every and i and i % cache_every == 0:
                states.append(start)
            if _is_wrapped(coupling):
                raise ReversibilityError(f'coupling {i} is wrapped by {FSDP}')
            self.steps += steps_of(coupling)
            if compat.is_fully_sharded(coupling) and not isinstance(coupling, Coupling):
                raise ReversibilityError(
                    f'`fully_shard` was applied to coupling {i}, a {type(coupling).__name__}, which is supported '
                    f'only if the class derives from `mmrev.reversible.Coupling`')
            if len(self.steps) > start:
                self.segments.append((coupling, start, len(self.steps)))
        self.descriptions = [partial(_describe, i, name, type(step.f).__name__)
                             for i, (name, step) in enumerate(zip(_names(root, self.steps), self.steps))]
        for i, step in enumerate(self.steps):
            if not isinstance(step.f, nn.Module) or any(map(_is_scripted, step.f.modules())):
                raise ReversibilityError(f'the function of {self.describe(i)} must be a Python module, as all modules '
                                         f'within it, so that it can be replayed; wrap it in an `nn.Module`, and do '
                                         f'not script or trace it')
        self.functions = [Function(step.f, shared) for step in self.steps]
        for i, function in enumerate(self.functions):
            _refuse_modules(function, self.describe(i))
        self.keep = [UNDO if drops_graphs and k == GRAPH else k for k in resolve_keep(keep, self.steps)]
        for i in states:
            if i < len(self.steps) and self.keep[i] == UNDO:
                self.keep[i] = STATE
        self._work_out_undo()
        self.backwards = shared.backwards
        self.forward_observed = False
        self.tracks_draws = True  # after every step; if False, only after the last one
        self.observed: Set[int] = set()  # steps that have been observed in a backward
        self.is_sharded = any(map(compat.is_fully_sharded, root.modules()))
        if not self.is_sharded:
            self.segments = self._joined()
        of_functions = chain.from_iterable(function.modules for function in self.functions)  # some are in plain lists
        self._signature = Signature(root, list(dict.fromkeys([*walk(root)[1:], *of_functions])))

    def _joined(self) -> List[Tuple[nn.Module, int, int]]:
        """The segments, one after another in one node as long as they have few weights together."""
        joined: List[Tuple[nn.Module, int, int]] = []
        total = 0
        for coupling, start, stop in self.segments:
            modules = chain.from_iterable(function.modules for function in self.functions[start:stop])
            weights = chain.from_iterable(m._parameters.values() for m in modules)
            size = sum(p.numel() * p.element_size() for p in weights if p is not None)
            total += size
            if joined and total <= NODE_BYTES:
                coupling, start, _ = joined.pop()
            else:
                total = size
            joined.append((coupling, start, stop))
        return joined

    def is_current(self) -> bool:
        """Whether the modules are unchanged, except for the values of parameters and buffers."""
        return self._signature.holds()

    def refuse_cached_weights(self) -> None:
        """Raise an error within ``parametrize.cached()``, if a function has weights that it caches."""
        modules = chain.from_iterable(function.modules for function in self.functions)
        if parametrize._cache_enabled and any(map(parametrize.is_parametrized, modules)):
            raise ReversibilityError('a reversible sequence cannot be trained within `parametrize.cached()`, whose '
                                     'weights of the forward carry no graph for the backward')

    def describe(self, index: int) -> str:
        """Describe a step in messages, by index, name and class."""
        return self.descriptions[index]()

    def _work_out_undo(self) -> None:
        """Determine which targets must be undone, and for each step the streams whose values before it are needed.

        A value is needed by an earlier step that is evaluated again, unless a kept state or the source of a kept graph
        provides it first.
        """
        needed: FrozenSet[int] = frozenset()
        self.needed: List[FrozenSet[int]] = []  # before step i, by steps before i
        self.undone: List[bool] = []
        for step, keep in zip(self.steps, self.keep):
            self.needed.append(needed)
            sources = frozenset(part.stream for part in step.sources)
            whole = frozenset(part.stream for part in step.sources if part.whole)
            if keep == STATE:
                needed = frozenset()
            elif keep == GRAPH:
                needed -= whole
            self.undone.append(not step.creates and step.target.stream in needed)
            if keep != GRAPH:
                needed |= sources
        self.needed.append(needed)
        self.read = [sorted({part.stream for part in step.sources}) for step in self.steps]
        self.released: List[List[int]] = []  # streams that nothing reads once step i is undone
        for i, step in enumerate(self.steps):
            touched = {part.stream for part in step.sources} | ({step.target.stream} if not step.creates else set())
            self.released.append(sorted(touched - self.needed[i]))


def steps_of(coupling: Any) -> List[AdditiveStep]:
    """The steps of a coupling."""
    return list(coupling.steps())


def _describe(index: int, name: str, kind: str) -> str:
    return f'step {index} (`{name}`, {kind})'


def _names(root: nn.Module, steps: Sequence[AdditiveStep]) -> List[str]:
    paths = {module: name for name, module in root.named_modules()}
    return [paths.get(step.f, type(step.f).__name__) for step in steps]


def _is_scripted(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule)


def _is_wrapped(module: nn.Module) -> bool:
    wrapper = getattr(sys.modules.get('torch.distributed.fsdp'), 'FullyShardedDataParallel', None)
    return wrapper is not None and isinstance(module, wrapper)


def _refuse_modules(function: Function, step: str) -> None:
    for name, p in chain.from_iterable(m._parameters.items() for m in function.modules):
        if isinstance(p, UninitializedParameter):
            raise ReversibilityError(f'the parameter `{name}` of {step} is not initialized yet; run the network once '
                                     f'under `torch.no_grad()` first, so that lazy modules learn their shapes')
    if any(map(_is_wrapped, function.modules)):
        raise ReversibilityError(f'{step} is wrapped by {FSDP}')
    if any(compat.is_fully_sharded(m) for m in function.modules):
        raise ReversibilityError(f'`fully_shard` was applied within {step}, and would release its parameters before '
                                 f'the backward; apply it to the coupling that has the step, or to the whole network')
