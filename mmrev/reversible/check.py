"""Opt-in check of how well a backward reconstructs what the forward computed."""
from contextlib import contextmanager
from typing import Iterator, List, NamedTuple, Optional

from torch import Tensor

from .errors import ReversibilityError


class StepError(NamedTuple):
    """Reconstruction error of one step's target: ``max|x' - x| / max|x|`` (no unit); absolute where ``x`` is zero."""
    index: int  # type: ignore[assignment]
    step: str
    error: float


class ReconstructionReport:
    """What :func:`check_reconstruction` yields; ``errors`` fills during backward, last step first."""

    def __init__(self, tolerance: Optional[float]):
        self.tolerance = tolerance
        self.errors: List[StepError] = []

    @property
    def worst(self) -> Optional[StepError]:
        return max(self.errors, key=lambda e: e.error, default=None)

    def add(self, index: int, step: str, before: Tensor, reconstructed: Tensor) -> None:
        scale = before.abs().max().item() or 1.
        error = (reconstructed - before).abs().max().item() / scale
        self.errors.append(StepError(index, step, error))
        if self.tolerance is not None and not error <= self.tolerance:
            kind = 'is not finite' if error != error or error == float('inf') else f'has relative error {error:.3g}'
            raise ReversibilityError(
                f'what {step} was added to {kind} after the undo (shape {tuple(before.shape)}, tolerance '
                f'{self.tolerance:g}); keep more states with `cache_every`, use a wider dtype for the streams, or look '
                f'for a function that is not deterministic')


_ACTIVE: List[ReconstructionReport] = []


def active_report() -> Optional[ReconstructionReport]:
    return _ACTIVE[-1] if _ACTIVE else None


@contextmanager
def check_reconstruction(tolerance: Optional[float] = None) -> Iterator[ReconstructionReport]:
    """Within this context every reversible forward keeps its states, and its backward compares.

    This costs the memory that reversibility saves, so use it only for debugging.

    Args:
        tolerance: Largest relative error of a step; a larger or non-finite one raises. ``None`` only records.

    Yields:
        The report, with one entry per step undone by a backward of a forward that ran within the context.

    Raises:
        ReversibilityError: From the backward, naming the first step beyond ``tolerance``.
    """
    report = ReconstructionReport(tolerance)
    _ACTIVE.append(report)
    try:
        yield report
    finally:
        _ACTIVE.remove(report)
