"""The module that runs couplings reversibly or, with the same modules and state dict, under plain autograd."""
import copy
import warnings
from functools import partial
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor

from mmrev import compat

from .call import Call
from .coupling import surrounded
from .errors import ReversibilityError
from .generators import refusing_captured_draws
from .inference import infer
from .keep import Keep, check_keep
from .node import run_reversible
from .notes import stop_noting
from .overlap import obstacle, settle
from .plain import run_plain
from .plan import Plan, steps_of
from .shared import Shared, share_lock, shared_by
from .step import AdditiveStep


class ReversibleSequence(nn.Module):
    """Couplings one after another, trained without keeping their activations.

    Args:
        couplings: Modules with a method ``steps() -> list[AdditiveStep]``. Each becomes a node of autograd's graph,
            where the gradients of its weights are ready together; small ones share a node, up to 1 MiB of weights.
        reversible: ``False`` runs the same steps under plain autograd.
        cache_every: Keep all streams before every ``cache_every``-th coupling, so that the undo starts afresh there:
            memory against the drift of long inversions in low precision. ``None`` keeps nothing but the outputs.
        overlap: In the backward, recompute a step while the gradient of the step after it is computed (PaReprop, Zhu
            and Mangalam 2023), for one more step's graph in memory. On CPUs by a second thread: it helps where a step's
            operators are too small to use all cores; with large ones, one step at a time on all cores is faster.
            Not for functions that draw random numbers and are checkpointed within: both threads would rewind one
            generator. No effect around or within a function of another sequence.
        keep: What each step keeps for the backward: ``'undo'``, nothing, so that it is undone; ``'state'``, the streams
            before it, so that the undo starts afresh there; ``'graph'``, what plain autograd keeps, so that its
            function is not evaluated a second time. One of these for all steps, a list with an entry for each, or a
            function of the :class:`AdditiveStep`. Memory against time; the gradients are the same up to rounding.
            Within a non-reentrant checkpoint ``'graph'`` is ``'undo'`` (PyTorch 2.5 and later).

    Shape:
        Input: one tensor per stream, for example ``(B, C, H, W)``.
        Output: a tuple with one tensor per stream, new streams last.

    Raises:
        ReversibilityError: Where a function cannot be inverted or replayed as it was written, or would lose a
            gradient.
        TypeError, ValueError: If ``keep`` or ``cache_every`` is none of the above.
    """

    def __init__(self, couplings: Sequence[nn.Module], reversible: bool = True, cache_every: Optional[int] = None,
                 overlap: bool = False, keep: Keep = None):
        super().__init__()
        if cache_every is not None and cache_every < 1:
            raise ValueError(f'`cache_every` must be None or at least 1, got {cache_every}')
        check_keep(keep)
        self.couplings = nn.ModuleList(couplings)
        self.reversible = reversible
        self.cache_every = cache_every
        self.overlap = overlap
        self.keep = keep
        self._told: Set[str] = set()
        self._plan: Optional[Plan] = None
        self._shares: Optional[Shared] = None

    def forward(self, *streams: Tensor) -> Tuple[Tensor, ...]:
        if '_is_replica' in self.__dict__ and self.reversible and torch.is_grad_enabled():
            raise ReversibilityError('a reversible sequence cannot be trained within `DataParallel`, whose replicas '
                                     'hold no parameters; use `DistributedDataParallel`, or set `reversible=False`')
        if not streams or not all(isinstance(x, Tensor) for x in streams):
            given = ', '.join(type(x).__name__ for x in streams) or 'none'
            raise TypeError(f'a reversible sequence takes its streams as separate tensors, at least one; got {given}')
        streams = tuple(self._keep_float32_under_autocast(x) for x in streams)
        needs_graph = self._needs_graph(streams)
        plain = not self.reversible or torch.jit.is_tracing() or compat.is_transformed()
        if needs_graph and not plain:
            return self._run_reversible(streams)
        if needs_graph or plain and self.reversible or compat.is_compiling():
            if self.overlap and not self.reversible:
                self._tell('with `reversible=False` nothing is undone')
            return self._run(run_plain, streams)
        if self.reversible:
            stop_noting()
        return self._run(partial(infer, self._shared()), streams)

    def train(self, mode: bool = True) -> 'ReversibleSequence':
        self._plan = None  # the next call examines the functions again
        return super().train(mode)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile each function, with the arguments of ``torch.compile``; the sequence itself runs eagerly.

        A function that draws random numbers runs eagerly, and so does the first call after ``train()``.
        """
        for step in self._steps():
            step.f.compile(*args, **kwargs)
        self._plan = None

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        with self._shared().lock:  # a replay temporarily replaces buffers
            return super().state_dict(*args, **kwargs)

    def __deepcopy__(self, memo: Dict[int, Any]) -> 'ReversibleSequence':
        with self._shared().lock:  # a replay temporarily changes flags of the modules
            copied = memo[id(self)] = type(self).__new__(type(self))
            copied.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return copied

    def __getstate__(self) -> Dict[str, Any]:
        return {**self.__dict__, '_plan': None, '_shares': None}

    @torch.compiler.disable  # a graph break: a compiled graph would keep what this is here to release
    def _run_reversible(self, streams: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        if compat.is_exporting():
            return self._run(run_plain, streams)
        stop_noting()  # for a function that contains this sequence, whose functions note for themselves
        within = self._shared().lock._is_owned()  # a function of another sequence, while second threads may wait for it
        if not within:
            settle()
        plan = self._current_plan()
        plan.refuse_cached_weights()
        reason = self._obstacle(plan, streams[0], within) if self.overlap else None
        call = Call(plan, self.overlap and reason is None)
        with refusing_captured_draws(streams):
            outputs = run_reversible(call, streams)
        if self.overlap and (reason or call.communicates):
            self._tell(reason or f'{call.communicates} communicates, and all processes must do so in the same order')
        return outputs

    def _current_plan(self) -> Plan:
        plan, shared = self._plan, self._shared()
        keep = tuple(self.keep) if isinstance(self.keep, list) else self.keep
        settings = keep, self.cache_every, compat.is_checkpointing()
        with shared.lock:  # not within a replay of another thread, which temporarily changes flags
            current = plan is not None and plan.settings == settings and plan.is_current()
        if plan is None or not current:
            functions = [step.f for step in self._steps() if isinstance(step.f, nn.Module)]
            share_lock(shared, [m for f in functions for m in f.modules()])  # some are in plain lists
            with shared.lock:
                plan = self._plan = Plan(self, self.couplings, *settings, shared)
        return plan

    def _shared(self) -> Shared:
        if self._shares is None:
            self._shares = shared_by(self.couplings)
        return self._shares

    def _run(self, run: Callable, streams: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        """``run(steps, streams)``, one coupling at a time where their weights are gathered for that."""
        if not any(map(compat.is_fully_sharded, self.couplings)):
            return run(self._steps(), streams)
        for coupling in self.couplings:
            streams = surrounded(coupling, partial(_spread, run, steps_of(coupling)), *streams)
        return tuple(streams)

    def _steps(self) -> List[AdditiveStep]:
        return [step for coupling in self.couplings for step in steps_of(coupling)]

    @staticmethod
    def _obstacle(plan: Plan, x: Tensor, within: bool) -> Optional[str]:
        if within:
            return 'this is within a function of another reversible sequence'
        if isinstance(x, FakeTensor):
            return 'fake tensors are not computed on a device'
        if plan.is_sharded:
            return 'the weights of the step before are not gathered yet'
        for i, function in enumerate(plan.functions):
            if any(isinstance(m, ReversibleSequence) for m in function.modules):
                return f'{plan.describe(i)} contains a reversible sequence, and the two would share random state'
        return obstacle(len(plan.steps), x.device)

    def _tell(self, reason: str) -> None:
        if reason not in self._told:
            self._told.add(reason)
            warnings.warn(f'`overlap=True` has no effect, the steps are undone one by one: {reason}', stacklevel=3)

    def extra_repr(self) -> str:
        return f'reversible={self.reversible}, cache_every={self.cache_every}, overlap={self.overlap}, keep={self.keep}'

    def _needs_graph(self, streams: Sequence[Tensor]) -> bool:
        if not torch.is_grad_enabled():
            return False
        return any(x.requires_grad for x in streams) or any(p.requires_grad for p in self.parameters())

    @staticmethod
    def _keep_float32_under_autocast(x: Tensor) -> Tensor:
        low = x.dtype in (torch.float16, torch.bfloat16)
        return x.float() if low and compat.is_autocast_enabled(x.device.type) else x


def _spread(run: Callable, steps: Sequence[AdditiveStep], *streams: Tensor) -> Tuple[Tensor, ...]:
    return run(steps, streams)
