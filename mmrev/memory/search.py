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
        return batch._replace(height=round(n * batch.height / short) * _SIDE, width=round(n * batch.width / short) * _SIDE)

    try:
        found['image'] = _search(scaled, max(1, short // _SIDE), forecaster, memory)
    except ProblemError:  # a transformer takes images of one size
        pass
    return found


def _search(batch_of: Callable[[int], Batch], start: int, forecaster: Forecaster, memory: int) -> Fit:
    """The largest number whose batch fits; the peak grows with it, nearly in proportion."""
    peaks: Dict[int, int] = {}

    def fits(n: int) -> bool:
        if n not in peaks:
            peaks[n] = forecaster(batch_of(n)).peak
        return peaks[n] <= memory

    low, high = 0, start
    while high < _MOST and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return Fit(batch_of(low), peaks[low]) if low else Fit(None, 0)
