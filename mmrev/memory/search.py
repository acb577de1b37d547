"""The largest batch, and the largest image, for a memory."""
from typing import Callable, Dict, NamedTuple, Optional

from mmrev.problems import ProblemError

from .forecast import Forecast, Forecaster
from .training import Batch

_SIDE = 32  # pixels
_MOST = 2**14


class Fit(NamedTuple):
    """The largest batch of its kind; `None` if none fits."""
    batch: Optional[Batch]
    peak: int


def largest(forecaster: Forecaster, forecast: Forecast, memory: int) -> Dict[str, Fit]:
    """The most images of this size, and the largest images in this number, for that many bytes."""
    batch = forecast.batch
    found = {'batch': _search(lambda n: batch._replace(images=n), batch.images, forecaster, memory)}
    short = min(batch.height, batch.width)

    def scaled(n: int) -> Batch:
        height, width = (round(n * side / short) * _SIDE for side in (batch.height, batch.width))
        return batch._replace(height=height, width=width)

    try:
        found['image'] = _search(scaled, max(1, short // _SIDE), forecaster, memory)
    except ProblemError:  # a transformer takes images of one size
        pass
    return found


def _search(batch_of: Callable[[int], Batch], start: int, forecaster: Forecaster, memory: int) -> Fit:
    """The largest number whose batch fits; the peak grows with it, nearly along a line."""
    peaks: Dict[int, int] = {}
    low, high, guess = 0, _MOST, start
    while high - low > 1:
        peaks[guess] = forecaster(batch_of(guess)).peak
        low, high = (guess, high) if peaks[guess] <= memory else (low, guess)
        guess = min(max(_crossing(peaks, low, high, memory), low + 1), high - 1)
    return Fit(batch_of(low), peaks[low]) if low else Fit(None, 0)


def _crossing(peaks: Dict[int, int], low: int, high: int, memory: int) -> int:
    """Where the line through two of the points nearest to the bound meets it."""
    if len(peaks) == 1:
        return 2 * low or high // 2
    (a, y), (b, z) = sorted((n, peaks[n]) for n in sorted(peaks, key=lambda n: abs(peaks[n] - memory))[:2])
    return int(a + (memory - y) * (b - a) / (z - y)) if z > y else (low + high) // 2
