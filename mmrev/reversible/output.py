"""What a function must not change, and what it must return."""
from typing import Any, Callable, Iterable, List, Optional, Sequence

from torch import Tensor

from mmrev import compat

from .errors import ReversibilityError, captured
from .function import Function, Weights
from .graph import refuse_captured
from .observe import Observer
from .step import AdditiveStep
from .streams import shares_memory, version, versions


def check_output(step: AdditiveStep, describe: Callable[[], str], function: Function, weights: Weights,
                 observer: Optional[Observer], sources: List[Tensor], before: List[int], out: Any,
                 target: Optional[Tensor], with_graph: bool) -> Tensor:
    """Check the output of a step's function.

    Args:
        step: The step.
        describe: Describes the step in messages.
        function: Its function.
        weights: Weights of the function.
        observer: Observer of the evaluation, if any.
        sources: The tensors that the function was given.
        before: Versions of the inputs before the evaluation.
        out: Output of the function.
        target: The stream that the output is added to; None if the step creates it.
        with_graph: Whether the step keeps the output's graph.

    Returns:
        The output, detached unless ``with_graph``.

    Raises:
        ReversibilityError: If the step cannot be undone, or a gradient would be lost.
    """
    if not isinstance(out, Tensor):
        raise ReversibilityError(f'{describe()} must return one tensor, got {type(out).__name__}')
    if before != versions(sources):
        raise ReversibilityError(
            f'{describe()} modified its input in place, so the step cannot be undone; use `inplace=False` in its first '
            f'layer, or clone the input (shape {tuple(sources[0].shape)})')
    if out.requires_grad and not with_graph:  # a weight, or gradients were enabled, by the function or to observe it
        if observer is not None or not function.enables_grad:
            _refuse_lost(out, weights, sources, observer, describe)
            function.enables_grad = True
        out = out.detach().clone() if step.creates else out.detach()
    if target is not None and target.shape != out.shape and not _broadcasts(out, target):
        raise ReversibilityError(
            f'{describe()} returned shape {tuple(out.shape)}, but the stream that it is added to (stream '
            f'{step.target.stream}) has shape {tuple(target.shape)}')
    return out


def refuse_alias(out: Tensor, sources: Iterable[Optional[Tensor]], describe: Callable[[], str]) -> None:
    """Refuse the output of a function if it shares memory with one of its ``sources``.

    Raises:
        ReversibilityError: Naming the step and the shape.
    """
    if any(x is not None and shares_memory(out, x) for x in sources):
        raise ReversibilityError(f'{describe()} returned its input or a view of it (shape {tuple(out.shape)}); return '
                                 f'a new tensor, for example `x.clone()`')


def check_unmodified(outputs: Sequence[Optional[Tensor]], expected: Sequence[int]) -> None:
    """Raise an error if an output of the sequence has another than its ``expected`` version."""
    for i, (x, of_forward) in enumerate(zip(outputs, expected)):
        if x is not None and version(x) != of_forward:
            raise ReversibilityError(
                f'output {i} of the reversible sequence, shape {tuple(x.shape)}, was modified in place after the '
                f'forward (version {version(x)}, expected {of_forward}); the steps cannot be undone from it. Use an '
                f'out-of-place operation or clone the output first')


def refuse_modified(kept: Tensor, expected: int, describe: Callable[[], str]) -> None:
    """Raise an error if what a step keeps beside its graph, a source or the output, has another version."""
    if version(kept) != expected:
        raise ReversibilityError(
            f'a tensor of shape {tuple(kept.shape)} that {describe()} returned or was given, and that its '
            f"keep='graph' keeps, was modified in place after the forward, so the steps before cannot be undone; "
            f'clone it first')


def _broadcasts(out: Tensor, target: Tensor) -> bool:
    """Whether ``out`` can be added to ``target``."""
    return out.ndim <= target.ndim and all(size in (1, of_target) for size, of_target in
                                           zip(reversed(out.shape), reversed(target.shape)))


def _refuse_lost(out: Tensor, weights: Weights, sources: Sequence[Tensor], observer: Optional[Observer],
                 describe: Callable[[], str]) -> None:
    known = [p for p in (*weights.found, *sources) if p is not None]
    if observer is not None:
        known += observer.leaves()
    if not out.is_leaf:
        refuse_captured(compat.output_edge(out), known, describe)
        return
    origin = out if out._base is None else out._base  # a view made without a graph
    if all(origin is not x for x in known):
        raise ReversibilityError(captured(describe(), origin))
