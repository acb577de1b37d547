"""Choose which parts of a model to keep, recompute or undo, so that a training step fits a memory budget."""
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np
import torch

from mmrev.problems import ProblemError

from .estimate import Estimate
from .forecast import Forecast, Forecaster
from .parts import KEPT, apply, find_parts, find_steps
from .report import mib
from .training import Batch

Choices = Dict[str, str]
_CLOSE = 0.02  # of the budget: within it, no better plan is searched for
_MOVED = 3  # bytes that a device reads and writes for each byte that an operator outputs
_ALIKE = 0.003  # of the time of a step: of plans that are so near to the fastest, the one with the lowest peak is taken


class Speed(NamedTuple):
    """Multiply-accumulates and bytes per second of a device."""
    macs: float
    bytes: float


class Plan(NamedTuple):
    """How the backward treats each part of a model.

    Attributes:
        choices: Choice by the name of the part, see :class:`~mmrev.memory.parts.Part`.
        saved: Bytes that each part stores less than under plain autograd.
        seconds: Expected time to recompute each part in a step.
        peak: Predicted peak of the step in bytes.
        plain: Predicted peak under plain autograd in bytes.
        batch: Largest batch of the training.
        budget: Budget of the plan in bytes.
        leaky: Whether the plan includes InPlace-ABN with leaky ReLUs, which changes the function.
    """
    choices: Choices
    saved: Dict[str, int]
    seconds: Dict[str, float]
    peak: int
    plain: int
    batch: Batch
    budget: int = 0
    leaky: bool = False

    def save(self, file: Path) -> None:
        """Write the plan as JSON."""
        file.write_text(json.dumps(dict(self._asdict(), batch=self.batch._asdict()), indent=2) + '\n')

    @classmethod
    def load(cls, file: Path) -> 'Plan':
        """Read a plan that :meth:`save` wrote."""
        content = json.loads(file.read_text())
        return cls(**dict(content, batch=Batch(**content['batch'])))

    def __str__(self) -> str:
        """A table with one line for consecutive parts with the same choice."""
        lines = [f'  {"part":60s}{"choice":>12s}{"saved":>14s}{"time":>11s}']
        for names, choice in _runs(self.choices):
            saved, seconds = (sum(x[name] for name in names) for x in (self.saved, self.seconds))
            first, last = names[0] or 'elsewhere', names[-1]
            name = first if len(names) == 1 else f'{first} to {last} ({len(names)})'
            lines.append(f'  {name:60s}{choice:>12s}{mib(saved):>14s}{1e3 * seconds:8.1f} ms')
        return '\n'.join(lines)


def _runs(choices: Choices) -> Iterator[Tuple[List[str], str]]:
    names: List[str] = []
    for name, choice in choices.items():
        if names and choice != choices[names[-1]]:
            yield names, choices[names[-1]]
            names = []
        names.append(name)
    if names:
        yield names, choices[names[-1]]


class Planner:
    """Finds plans for a config.

    Args:
        forecaster: Forecaster of the config.
        batch: Largest batch of the training.
        speed: Speed of the device; the default has a typical ratio of arithmetic to bandwidth.
        rounds: Maximum number of forecasts for each budget, after the first three.

    Attributes:
        parts: Parts of the model.
        plain: Forecast with all parts kept.
        least: Plan with the lowest peak among those that have been evaluated.
        estimate: Estimate of peaks, once a plan has been requested.

    Raises:
        ProblemError: If no part of the model can be recomputed or undone.
    """

    def __init__(self, forecaster: Forecaster, batch: Batch, speed: Speed = Speed(1e11, 1e10), rounds: int = 4):
        self._forecaster, self._batch, self._rounds = forecaster, batch, rounds
        self._model = forecaster.training.model
        self._steps = find_steps(self._model)
        remove = apply(self._model, dict.fromkeys(self._steps, KEPT))
        self.plain = forecaster(batch)
        remove()
        self.parts = find_parts(self._model, self.plain.called)
        self._names = {part.name for part in self.parts}
        if len(self.parts) == 1:
            raise ProblemError(f'no part of {type(self._model).__name__} can be recomputed or undone',
                               'Train smaller images or fewer at a time: `mmrev memory --gpu-memory` says how many')
        self._tried: List[Tuple[Choices, Forecast]] = [({part.name: KEPT for part in self.parts}, self.plain)]
        self._kept: List[Dict[str, int]] = [self._by_part(self.plain)]
        self._work, self._speed = self._forward_work(), speed

    def __call__(self, budget: int) -> Optional[Plan]:
        """Return the fastest plan found that fits, of those as fast the smallest; ``None`` if none fits."""
        if self.plain.peak > budget:
            self._try_uniform()
            self._approach(budget)
        fitting = [choices for choices, forecast in self._tried if forecast.peak <= budget]
        most = min(map(self.cost, fitting), default=0.) + _ALIKE * self._step_seconds()
        alike = [choices for choices in fitting if self.cost(choices) <= most]
        chosen = min(alike, key=lambda choices: self.forecast(choices).peak, default=None)
        return None if chosen is None else self._plan(chosen)._replace(budget=budget)

    @property
    def least(self) -> Plan:
        return self._plan(min(self._tried, key=lambda tried: tried[1].peak)[0])

    def uniform(self, level: int) -> Choices:
        """Return the same choice for all parts: kept (0), cheap (1), or recomputed and undone (2)."""
        return {part.name: part.choices[min(level, len(part.choices) - 1)] for part in self.parts}

    def _try_uniform(self) -> None:
        if len(self._kept) == 1:
            steps = [self.plain, *(self.forecast(self.uniform(level)) for level in (1, 2))]
            self._kept += [self._by_part(step) for step in steps[1:]]
            self.estimate = Estimate(self.parts, steps, self._kept, [self._owners(step) for step in steps])

    def forecast(self, choices: Choices) -> Forecast:
        """Predict a step with these choices."""
        for tried, forecast in self._tried:
            if tried == choices:
                return forecast
        remove = apply(self._model, choices)
        try:
            forecast = self._forecaster(self._batch)
        finally:
            remove()
        self._tried.append((dict(choices), forecast))
        return forecast

    def _approach(self, budget: int) -> None:
        """Forecast the best estimated choices, and correct the next target by the error of the estimate."""
        seconds = np.array([[self._seconds(part.name, min(level, len(part.choices) - 1)) for part in self.parts]
                            for level in range(len(self._kept))])
        aim = budget * (1 - _CLOSE / 2)
        target, fits, exceeds = aim, None, None  # `fits`, `exceeds`: a target and its peak
        for _ in range(self._rounds):
            levels = self.estimate.fit(target, seconds)
            choices = {part.name: part.choices[level] for part, level in zip(self.parts, levels)}
            known = any(tried == choices for tried, _ in self._tried)
            peak = self.forecast(choices).peak
            if peak <= budget:
                if known or peak >= budget * (1 - _CLOSE):
                    return
                fits = target, peak
            else:
                exceeds = target, peak
            if fits and exceeds:
                share = (aim - fits[1]) / (exceeds[1] - fits[1])
                target = fits[0] + share * (exceeds[0] - fits[0])
            else:
                target += aim - peak

    # ------------------------------------------------------------------------------------------------ what it costs

    def _plan(self, choices: Choices) -> Plan:
        levels = {part.name: part.choices.index(choices[part.name]) for part in self.parts}
        saved = {name: self._kept[0].get(name, 0) - self._kept[level].get(name, 0) for name, level in levels.items()}
        return Plan(choices, saved, {name: self._seconds(name, level) for name, level in levels.items()},
                    self.forecast(choices).peak, self.plain.peak, self._batch)

    def cost(self, choices: Choices) -> float:
        """Expected additional seconds of a step, compared with a plain one."""
        return sum(self._seconds(part.name, part.choices.index(choices[part.name])) for part in self.parts)

    def _seconds(self, name: str, level: int) -> float:
        """Expected time of what a choice recomputes: tensors that it does not store, or the whole forward."""
        saved = self._kept[0].get(name, 0) - self._kept[level].get(name, 0) if level else 0
        if saved <= 0:
            return 0.
        made, macs = (saved, 0) if level == 1 else self._work[name]
        return self._expected(made, macs)

    def _expected(self, made: int, macs: int) -> float:
        """Expected seconds of operators that output so many bytes."""
        return _MOVED * made / self._speed.bytes + macs / self._speed.macs

    def _step_seconds(self) -> float:
        """Expected time of a plain step, whose backward takes twice as long as its forward."""
        return 3 * sum(self._expected(*work) for work in self._work.values())

    def _forward_work(self) -> Dict[str, List[int]]:
        """Bytes that the forward of each part allocates, and its multiply-accumulates."""
        work: Dict[str, List[int]] = defaultdict(lambda: [0, 0])
        for a, owner in zip(self.plain.allocations[:self.plain.marks['backward']], self._owners(self.plain)):
            work[owner][0] += a.bytes
        for path, macs in self.plain.forward_macs.items():
            work[self._part_of(path)][1] += macs
        return work

    def _by_part(self, forecast: Forecast) -> Dict[str, int]:
        """Bytes kept for backward, by part."""
        sums: Dict[str, int] = defaultdict(int)
        for a, owner in zip(forecast.allocations[:forecast.marks['backward']], self._owners(forecast)):
            if forecast.kind(a) == 'kept for backward':
                sums[owner] += a.bytes
        return sums

    def _owners(self, forecast: Forecast) -> List[str]:
        """The part that makes each allocation. What a reversible sequence makes belongs to the step that ran last."""
        owners, last = [], {}
        for a in forecast.allocations:
            owner = self._part_of(a.path)
            if owner in self._steps:
                last[self._steps[owner]] = owner
            owners.append(last.get(a.path, owner))
        return owners

    def _part_of(self, path: str) -> str:
        while path and path not in self._names:
            path = path.rpartition('.')[0]
        return path


def measure_speed(device: Any = 'cpu') -> Speed:
    """Measure a matrix product and an elementwise sum, for a fraction of a second."""
    on_gpu = torch.device(device).type == 'cuda'
    a = torch.ones(2048 if on_gpu else 512, 2048 if on_gpu else 512, device=device)
    b = torch.ones(2**24, device=device)  # larger than caches
    speed = Speed(len(a)**3 / _seconds(lambda: a @ a, on_gpu), 3 * b.nbytes / _seconds(lambda: b + b, on_gpu))
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    return speed


def _seconds(run: Any, on_gpu: bool) -> float:
    best = float('inf')
    for _ in range(5):
        begin = time.perf_counter()
        run()
        if on_gpu:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    return best
