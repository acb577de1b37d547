"""Find the largest batch and the largest image that fit into memory."""
from typing import Callable, Dict, NamedTuple, Optional

from mmrev.problems import ProblemError

from .forecast import Forecast
from .training import Batch

_SIDE = 32  # pixels
_MOST = 2**14


class Fit(NamedTuple):
    """The largest batch that fits, and its peak in bytes; the batch is `None` if none fits."""
    batch: Optional[Batch]
    peak: int


def largest(forecaster: Callable[[Batch], Forecast], forecast: Forecast, memory: int) -> Dict[str, Fit]:
    """Find the most images of the given size, and the largest images in the given number, for `memory` bytes."""
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


def _search(batch_of: Callable[[int], Batch], start: int, forecaster: Callable[[Batch], Forecast], memory: int) -> Fit:
    """Find the largest number whose batch fits. The peak grows almost linearly with the number."""
    peaks: Dict[int, int] = {}
    low, high, guess = 0, _MOST, start
    while high - low > 1:
        width = high - low
        peaks[guess] = forecaster(batch_of(guess)).peak
        low, high = (guess, high) if peaks[guess] <= memory else (low, guess)
        slow = len(peaks) > 3 and high - low > width // 2
        guess = (low + high) // 2 if slow else min(max(_crossing(peaks, memory), low + 1), high - 1)
    return Fit(batch_of(low), peaks[low]) if low else Fit(None, 0)


def _crossing(peaks: Dict[int, int], memory: int) -> int:
    """The number at which the line through the two points nearest to `memory` reaches it."""
    if len(peaks) == 1:
        (n, peak), = peaks.items()
        return 2 * n if peak <= memory else n // 2
    (a, y), (b, z) = sorted(sorted(peaks.items(), key=lambda point: abs(point[1] - memory))[:2])
    return a + int((memory - y) * (b - a) / (z - y)) if z > y else b + 1
