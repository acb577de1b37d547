"""Peak memory of a training step with a level for each part, estimated from forecasts with one level for all."""
from typing import Dict, List, Sequence, Tuple

import numpy as np

from .forecast import Forecast
from .parts import Part


class Estimate:
    """Estimates the peak of a step in which every part has its own level (0: keep all; higher: keep less).

    While a part runs, its own allocations are those of the forecast with that part's level for all. What the other
    parts keep for backward at that moment is replaced by what they keep at their own levels. A part keeps its bytes
    from the beginning of its forward until the beginning of its backward.

    Args:
        parts: Parts of the model.
        steps: One forecast per level; the first has all parts at level 0.
        kept: Per forecast, the bytes that each part keeps for backward, by name.
        owners: Per forecast, the name of the part that makes each allocation.
    """

    def __init__(self, parts: Sequence[Part], steps: Sequence[Forecast], kept: Sequence[Dict[str, int]],
                 owners: Sequence[Sequence[str]]):
        self._last = [len(part.choices) - 1 for part in parts]
        self._kept = np.array([[found.get(part.name, 0) for part in parts] for found in kept])  # (levels, parts)
        running, levels, highest, pending = [], [], [], []
        index = {part.name: i for i, part in enumerate(parts)}
        for level, (step, names) in enumerate(zip(steps, owners)):
            made_by = [index[name] for name in names]
            begin, end = self._spans(step, made_by)
            alive = np.array(step.alive(step.allocations)) + sum(step.fixed.values())
            states = np.searchsorted(np.sort([*begin, *end]), np.arange(len(made_by)))
            for moment in _highest(made_by, alive, states):
                owner = made_by[moment]
                held = (begin < moment) & (moment < end)
                held[owner] = False
                running.append(owner)
                levels.append(np.minimum(level, self._last))
                highest.append(alive[moment])
                pending.append(held)
        self._running, self._levels = np.array(running), np.array(levels)  # (moments, ), (moments, parts)
        self._pending = np.array(pending, float)  # (moments, parts)
        exchanged = np.take_along_axis(self._kept, self._levels, 0)
        self._base = np.array(highest) - (self._pending * exchanged).sum(1)
        self._level = self._levels[np.arange(len(running)), self._running]  # of the part that runs

    def _spans(self, step: Forecast, owners: Sequence[int]) -> Tuple[np.ndarray, np.ndarray]:
        """Index of the allocation with which each part begins its forward, and its backward."""
        backward = step.marks['backward']
        begin, end = np.full(len(self._last), len(owners)), np.full(len(self._last), len(owners))
        for i in range(len(owners) - 1, -1, -1):
            (begin if i < backward else end)[owners[i]] = i
        return begin, end

    def moments(self, levels: Sequence[int]) -> np.ndarray:
        """Bytes alive at each moment; 0 where the part that runs has another level."""
        kept = self._kept[levels, np.arange(len(levels))]
        return np.where(self._level == np.asarray(levels)[self._running], self._base + self._pending @ kept, 0)

    def peak(self, levels: Sequence[int]) -> int:
        """The largest number of bytes alive at any moment, including weights and what else is fixed."""
        return int(self.moments(levels).max())

    def fit(self, target: float, seconds: np.ndarray) -> List[int]:
        """Find levels whose estimated peak is within `target`; if there are none, the lowest peak found.

        At the highest moment, raises the level that saves most bytes per second, until the peak fits.

        Args:
            target: Bytes.
            seconds: Expected time of each level of each part, of shape (levels, parts).
        """
        levels = [0] * len(self._last)
        while True:
            alive = self.moments(levels)
            at = int(alive.argmax())
            if alive[at] <= target:
                return self._take_back(levels, target, seconds)
            found = []
            for part, now in enumerate(levels):
                for level in range(now + 1, self._last[part] + 1):
                    saved = self._pending[at, part] * (self._kept[now, part] - self._kept[level, part])
                    if part == self._running[at]:
                        saved = alive[at] - self.peak([*levels[:part], level, *levels[part + 1:]])
                    if saved > 0:
                        needed = min(saved, alive[at] - target)
                        more = max(seconds[level, part] - seconds[now, part], 0) + 1e-9
                        found.append((needed / more, part, level))
            if not found:
                return levels
            _, part, level = max(found)
            levels[part] = level

    def _take_back(self, levels: List[int], target: float, seconds: np.ndarray) -> List[int]:
        """Lower levels again where the peak still fits, beginning with the slowest parts."""
        levels = list(levels)
        for part in sorted(range(len(levels)), key=lambda part: -seconds[levels[part], part]):
            for level in range(levels[part]):
                faster = [*levels[:part], level, *levels[part + 1:]]
                if self.peak(faster) <= target:
                    levels = faster
                    break
        return levels


def _highest(owners: Sequence[int], alive: np.ndarray, states: np.ndarray) -> List[int]:
    """The highest moment of each stretch in which one part runs and the same other parts are pending."""
    found: Dict[Tuple[int, int], int] = {}
    for moment, key in enumerate(zip(owners, states.tolist())):
        if key not in found or alive[moment] > alive[found[key]]:
            found[key] = moment
    return list(found.values())
