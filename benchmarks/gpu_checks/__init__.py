"""The checks of `benchmarks/gpu_check.py`, in the order in which they run.

A check is a function of :class:`On` that returns its figure as a text. It fails if it raises, and is skipped if it
raises :class:`Skipped`, whose text is the reason.
"""
import importlib
from typing import Callable, Dict, NamedTuple

import torch

PARTS = ('gradients', 'attention', 'reconstruction', 'waits', 'overlap', 'norms', 'training', 'processes',
         'stack')


class On(NamedTuple):
    """Where the checks run, and for how long: on the CPU they are small, to test their own logic."""
    device: torch.device
    is_small: bool

    @property
    def is_cuda(self) -> bool:
        return self.device.type == 'cuda'

    def times(self, iterations: int) -> int:
        return min(iterations, 4) if self.is_small else iterations


class Skipped(Exception):
    """Raised by a check that cannot run here; the message states why."""


Check = Callable[[On], str]
_CHECKS: Dict[str, Check] = {}


def check(name: str) -> Callable[[Check], Check]:
    """Register a check under the name that its line shows."""

    def register(function: Check) -> Check:
        assert name not in _CHECKS, name
        _CHECKS[name] = function
        return function

    return register


def needs_gpus(on: On, number: int = 1) -> None:
    """Skip where there are fewer GPUs."""
    found = torch.cuda.device_count() if on.is_cuda else 0
    if found < number:
        raise Skipped(f'needs {number} GPU{"s" * (number > 1)}, found {found}')


def all_checks() -> Dict[str, Check]:
    """All checks by name, in the order of :data:`PARTS`, whichever part was imported first."""
    modules = [importlib.import_module(f'{__name__}.{part}').__name__ for part in PARTS]
    return {name: function for module in modules for name, function in _CHECKS.items() if function.__module__ == module}
