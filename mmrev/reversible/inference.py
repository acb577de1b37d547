"""The same steps without a graph, in place on buffers of their own."""
from typing import Callable, List, Sequence, Tuple

import torch
from torch import Tensor

from mmrev import compat

from .graph import refuse_captured
from .shared import Shared
from .step import AdditiveStep
from .streams import StreamBuffers, shares_memory


def run_without_graph(steps: Sequence[AdditiveStep], streams: Sequence[Tensor],
                      evaluate: Callable[[int, List[Tensor]], Tensor]) -> Tuple[Tensor, ...]:
    """Run ``steps``; ``evaluate(index, sources)`` returns the output of a step's function."""
    buffers = StreamBuffers(streams)
    for i, step in enumerate(steps):
        sources = [buffers.get(part).detach() for part in step.sources]
        out = evaluate(i, sources)
        if step.creates:
            held = any(shares_memory(out, x) for x in sources)
            buffers.create(step.target, (out.clone() if held else out).to(sources[0].dtype))
        else:
            buffers.add(step.target, out)
        del out, sources  # not alive while the next function runs
        buffers.share_if_held(part.stream for part in step.sources)
    return tuple(buffers.aliases())


def infer(shared: Shared, steps: Sequence[AdditiveStep], streams: Sequence[Tensor]) -> Tuple[Tensor, ...]:
    """Run inference; the lock waits for a replay in another thread, which temporarily changes flags."""

    def evaluate(index: int, sources: List[Tensor]) -> Tensor:
        step = steps[index]
        with shared.lock:
            out = step.f(*sources)
        if out.requires_grad and torch.is_grad_enabled():  # of a tensor that is no parameter: none of them is trained
            refuse_captured(compat.output_edge(out), (), lambda: f'step {index} ({type(step.f).__name__})')
        return out

    return run_without_graph(steps, streams, evaluate)
