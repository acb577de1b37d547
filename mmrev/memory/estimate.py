"""The peak of a step with any choices, estimated from forecasts in which all parts are treated alike."""
from typing import Callable, Dict, List, Sequence, Tuple

import numpy as np

from .forecast import Forecast
from .parts import Part


class Estimate:
    """Peaks from those moments of uniform steps in which a part runs that is treated as it was there.

    What the other parts keep at such a moment is exchanged for what they keep with their own choices, from the
    beginning of their forward until the beginning of their backward.

    Args:
        parts: Of the model.
        steps: A forecast with all parts kept, one with all of them at level 1, and so on.
        kept: For each, the bytes that each part keeps for backward.
        part_of: The name of the part that a path lies in.
    """

    def __init__(self, parts: Sequence[Part], steps: Sequence[Forecast], kept: Sequence[Dict[str, int]],
                 part_of: Callable[[str], str]):
        self._index = {part.name: i for i, part in enumerate(parts)}
        self._last = [len(part.choices) - 1 for part in parts]
        self._kept = np.array([[found.get(part.name, 0) for part in parts] for found in kept])  # (levels, parts)
        running, levels, highest, pending = [], [], [], []
        for level, step in enumerate(steps):
            owners = [self._index[part_of(a.path)] for a in step.allocations]
            begin, end = self._spans(step, owners)
            alive = np.array(step.alive(step.allocations)) + sum(step.fixed.values())
            states = np.searchsorted(np.sort([*begin, *end]), np.arange(len(owners)))
            for moment in _highest(owners, alive, states):
                owner = owners[moment]
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
        """Numbers of the allocations with which each part begins its forward and its backward."""
        backward = step.marks['backward']
        begin, end = np.full(len(self._last), len(owners)), np.full(len(self._last), len(owners))
        for i in range(len(owners) - 1, -1, -1):
            (begin if i < backward else end)[owners[i]] = i
        return begin, end

    def moments(self, levels: Sequence[int]) -> np.ndarray:
        """Bytes alive at each moment; 0 at those where the part that runs is treated otherwise."""
        kept = self._kept[levels, np.arange(len(levels))]
        return np.where(self._level == np.asarray(levels)[self._running], self._base + self._pending @ kept, 0)

    def peak(self, levels: Sequence[int]) -> int:
        """Most bytes alive, fixed ones counted."""
        return int(self.moments(levels).max())

    def fit(self, target: float, seconds: np.ndarray) -> List[int]:
        """Levels of the parts with an estimated peak of at most this many bytes, or of as few as are found.

        Args:
            target: In bytes.
            seconds: Expected time of each level of each part (levels, parts).
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
        """Treat parts faster where that fits; those first of which most time is saved."""
        levels = list(levels)
        for part in sorted(range(len(levels)), key=lambda part: -seconds[levels[part], part]):
            for level in range(levels[part]):
                faster = [*levels[:part], level, *levels[part + 1:]]
                if self.peak(faster) <= target:
                    levels = faster
                    break
        return levels



def _highest(owners: Sequence[int], alive: np.ndarray, states: np.ndarray) -> List[int]:
    """Where most is alive while one part runs and the same others have been forward."""
    found: Dict[Tuple[int, int], int] = {}
    for moment, key in enumerate(zip(owners, states.tolist())):
        if key not in found or alive[moment] > alive[found[key]]:
            found[key] = moment
    return list(found.values())
