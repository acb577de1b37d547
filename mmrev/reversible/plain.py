"""The same steps under plain autograd: the reference that every reversible run is tested against."""
from typing import Dict, List, Sequence, Tuple, Union

import torch
from torch import Tensor

from .step import AdditiveStep
from .streams import StreamPart

# A stream is one tensor, or its consecutive channel parts {(start, stop): tensor} while steps work on parts of it.
_Stream = Union[Tensor, Dict[Tuple[int, int], Tensor]]


def run_plain(steps: Sequence[AdditiveStep], streams: Sequence[Tensor]) -> Tuple[Tensor, ...]:
    """Run ``steps`` out of place; autograd keeps what it wants."""
    current: List[_Stream] = list(streams)
    for step in steps:
        sources = [_read(current, part) for part in step.sources]
        out = step.f(*sources)
        if step.creates:
            current.append(out.to(sources[0].dtype))
            continue
        x = _read(current, step.target)
        _write(current, step.target, torch.add(x, out).to(x.dtype))
    return tuple(_joined(x) for x in current)


def _joined(stream: _Stream) -> Tensor:
    return stream if isinstance(stream, Tensor) else torch.cat([stream[k] for k in sorted(stream)], dim=1)


def _read(current: List[_Stream], part: StreamPart) -> Tensor:
    stream = current[part.stream]
    if part.start is not None and part.stop is not None:
        if not isinstance(stream, Tensor) and (part.start, part.stop) in stream:
            return stream[part.start, part.stop]
        return part.of(_joined(stream))
    whole = current[part.stream] = _joined(stream)
    return whole


def _write(current: List[_Stream], part: StreamPart, value: Tensor) -> None:
    if part.start is None or part.stop is None:
        current[part.stream] = value
        return
    stream = current[part.stream]
    if isinstance(stream, Tensor) or (part.start, part.stop) not in stream:
        whole = _joined(stream)
        cuts = [(0, part.start), (part.start, part.stop), (part.stop, whole.shape[1])]
        stream = {cut: whole[:, slice(*cut)] for cut in cuts if cut[0] < cut[1]}
        current[part.stream] = stream
    stream[part.start, part.stop] = value
