"""What a function must leave alone, and what it must return."""
from functools import partial
from typing import Any, Callable, List, Optional

from torch import Tensor

from mmrev import compat

from .errors import ReversibilityError, captured
from .observe import refuse_captured
from .step import AdditiveStep
from .streams import shares_memory, versions


def check_output(step: AdditiveStep, describe: Callable[[], str], sources: List[Tensor], before: List[int], out: Any,
                 target: Optional[Tensor], with_graph: bool) -> None:
    """Check the output of a step's function.

    Args:
        step: The step.
        describe: Its place, for messages.
        sources: What the function read.
        before: Their versions before it ran.
        out: What it returned.
        target: The stream that the output is added to, if there is one already.
        with_graph: Whether the output is to have a graph.

    Raises:
        ReversibilityError: If the step cannot be undone, or a gradient would be lost.
    """
    if not isinstance(out, Tensor):
        raise ReversibilityError(f'{describe()} must return one tensor, got {type(out).__name__}')
    if before != versions(sources):
        raise ReversibilityError(
            f'{describe()} modified its input in place, so the step cannot be undone; use `inplace=False` in its first '
            f'layer, or clone the input (shape {tuple(sources[0].shape)})')
    if out.requires_grad and not with_graph:
        refuse_captured(compat.output_edge(out), (), partial(captured, describe()))
        raise ReversibilityError(captured(describe(), out))
    for x in sources:
        if shares_memory(out, x):
            raise ReversibilityError(
                f'{describe()} returned its input or a view of it (shape {tuple(out.shape)}); return a new tensor, for '
                f'example `x.clone()`')
    if target is not None and target.shape != out.shape:
        raise ReversibilityError(
            f'{describe()} returned shape {tuple(out.shape)}, but the stream that it is added to (stream '
            f'{step.target.stream}) has shape {tuple(target.shape)}')
