"""The module that runs couplings reversibly or, with the same modules and state dict, under plain autograd."""
import warnings
from typing import List, Optional, Sequence, Set, Tuple

import torch
from torch import Tensor, nn

from mmrev import compat

from .function import Call, run_reversible
from .overlap import obstacle
from .plain import run_plain
from .step import AdditiveStep, StreamBuffers


class ReversibleSequence(nn.Module):
    """Couplings one after another, trained without keeping their activations.

    Args:
        couplings: Modules with a method ``steps() -> list[AdditiveStep]``. Each becomes one node of autograd's graph:
            the gradients of its weights are ready together.
        reversible: ``False`` runs the same steps under plain autograd.
        cache_every: Keep all streams before every ``cache_every``-th coupling, so that the undo starts afresh there:
            memory against the drift of long inversions in low precision. ``None`` keeps nothing but the outputs.
        overlap: In the backward, recompute a step while the gradient of the step after it is computed (PaReprop, Zhu
            and Mangalam 2023), for one more step's graph in memory. On CPUs by a second thread: it helps where a step's
            operators are too small to use all cores; with large ones, one step at a time on all cores is faster.
            Not for functions that draw random numbers and are checkpointed within: both threads would rewind one
            generator.

    Shape:
        Input: one tensor per stream, for example ``(B, C, H, W)``.
        Output: a tuple with one tensor per stream, new streams last.

    Raises:
        ReversibilityError: Where a function cannot be inverted or replayed as it was written, or would lose a
            gradient.
    """

    def __init__(self, couplings: Sequence[nn.Module], reversible: bool = True, cache_every: Optional[int] = None,
                 overlap: bool = False):
        super().__init__()
        if cache_every is not None and cache_every < 1:
            raise ValueError(f'`cache_every` must be None or at least 1, got {cache_every}')
        self.couplings = nn.ModuleList(couplings)
        self.reversible = reversible
        self.cache_every = cache_every
        self.overlap = overlap
        self._told: Set[str] = set()

    def forward(self, *streams: Tensor) -> Tuple[Tensor, ...]:
        streams = tuple(self._keep_float32_under_autocast(x) for x in streams)
        needs_graph = self._needs_graph(streams)
        if self.reversible and needs_graph and not torch.jit.is_tracing():
            return self._run_reversible(streams)
        if needs_graph or torch.jit.is_tracing() or compat.is_compiling():
            if self.overlap and not self.reversible:
                self._tell('with `reversible=False` nothing is undone')
            return run_plain(self._plan()[0], streams)
        return _run_without_graph(self._plan()[0], streams)

    @torch.compiler.disable  # a graph break: a compiled graph would keep what this is here to let go
    def _run_reversible(self, streams: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        if compat.is_exporting():
            return run_plain(self._plan()[0], streams)
        steps, segments = self._plan()
        every = self.cache_every or len(segments)
        keep_at = [start for start, _ in segments[every::every]] if every else []
        segments = [(start, stop) for start, stop in segments if start < stop]
        segments.append((len(steps), len(steps)))  # takes over the gradients of the outputs, see function.py
        reason = self._obstacle(steps, streams[0].device) if self.overlap else None
        call = Call(steps, self._describe, keep_at, self.overlap and reason is None)
        outputs = run_reversible(call, segments, streams)
        if self.overlap and (reason or call.communicates):
            self._tell(reason or f'{call.communicates} communicates, which all processes must do in one order')
        return outputs

    def _obstacle(self, steps: Sequence[AdditiveStep], device: torch.device) -> Optional[str]:
        for i, step in enumerate(steps):
            if any(isinstance(m, ReversibleSequence) for m in step.f.modules()):
                return f'{self._describe(i)} holds a reversible sequence itself, and the two would share random state'
        return obstacle(len(steps), device)

    def _tell(self, reason: str) -> None:
        if reason not in self._told:
            self._told.add(reason)
            warnings.warn(f'`overlap=True` has no effect, the steps are undone one by one: {reason}', stacklevel=3)

    def extra_repr(self) -> str:
        return f'reversible={self.reversible}, cache_every={self.cache_every}, overlap={self.overlap}'

    def _plan(self) -> Tuple[List[AdditiveStep], List[Tuple[int, int]]]:
        """All steps, and for each coupling the range of those that are its own."""
        steps, segments = [], []
        for coupling in self.couplings:
            start = len(steps)
            steps += coupling.steps()
            segments.append((start, len(steps)))
        return steps, segments

    def _needs_graph(self, streams: Sequence[Tensor]) -> bool:
        if not torch.is_grad_enabled():
            return False
        return any(x.requires_grad for x in streams) or any(p.requires_grad for p in self.parameters())

    @staticmethod
    def _keep_float32_under_autocast(x: Tensor) -> Tensor:
        low = x.dtype in (torch.float16, torch.bfloat16)
        return x.float() if low and compat.is_autocast_enabled(x.device.type) else x

    def _describe(self, index: int) -> str:
        f = self._plan()[0][index].f
        path = next((name for name, module in self.named_modules() if module is f), type(f).__name__)
        return f'step {index} (`{path}`, {type(f).__name__})'


def _run_without_graph(steps: Sequence[AdditiveStep], streams: Sequence[Tensor]) -> Tuple[Tensor, ...]:
    """Inference: in place on buffers of our own."""
    buffers = StreamBuffers(streams)
    for step in steps:
        sources = [buffers.read(part) for part in step.sources]
        out = step.f(*sources)
        if step.creates:
            buffers.create(step.target, out.to(sources[0].dtype))
        else:
            buffers.add(step.target, out)
        del out  # not alive while the next function runs
    return tuple(buffers.aliases())
