"""The atom of every reversible network here: the additive step ``x[target] += f(x[sources])`` and its undo.

A RevNet block is two steps, a RevSilo a list of them, a new pyramid level a step whose target does not exist yet. As
long as a step's target is none of its sources, ``x[target] -= f(x[sources])`` inverts it exactly (up to rounding), so a
list of steps is inverted by undoing them in reverse order.
"""
from dataclasses import dataclass
from typing import Iterable, List, Sequence, Tuple, Union

from torch import nn

from .streams import StreamPart, as_part


@dataclass(frozen=True, init=False)
class AdditiveStep:
    """``x[target] += f(x[sources])``.

    Args:
        f: The residual function; takes one tensor per source, returns a tensor of the target's shape.
        target: The stream (or part of one) that is added to.
        sources: The streams that ``f`` reads; none may overlap the target.
        creates: The target does not exist before this step: ``x[target] = f(x[sources])``, in the first source's
            dtype.

    Raises:
        ValueError: If the target is among the sources: subtraction could not invert that. If there is no such stream or
            part of one.
    """
    f: nn.Module
    target: StreamPart
    sources: Tuple[StreamPart, ...]
    creates: bool

    def __init__(self, f: nn.Module, target: Union[int, StreamPart], sources: Iterable[Union[int, StreamPart]],
                 creates: bool = False):
        object.__setattr__(self, 'f', f)
        object.__setattr__(self, 'target', as_part(target))
        object.__setattr__(self, 'sources', tuple(map(as_part, sources)))
        object.__setattr__(self, 'creates', creates)
        for part in (self.target, *self.sources):
            if part.stream < 0:
                raise ValueError(f'streams are counted from 0, got {part}')
            start, stop = part.start, part.stop
            if not (start is stop is None or start is not None and stop is not None and 0 <= start < stop):
                raise ValueError(f'a part of a stream is channels `start` to `stop`, 0 <= start < stop, got {part}')
        if any(self.target.overlaps(source) for source in self.sources):
            raise ValueError(f'the target of an additive step must not be among its sources, got target {self.target} '
                             f'and sources {self.sources}')
        if self.creates and not self.target.whole:
            raise ValueError(f'a step that creates a stream creates the whole of it, got target {self.target}')


def unread(steps: Sequence[AdditiveStep], outputs: Iterable[int]) -> List[nn.Module]:
    """The functions that contribute to no output, directly or through other streams: their weights get no gradient.

    Args:
        steps: In the order in which they run.
        outputs: Indices of the streams that are used after them.
    """
    read, found = set(outputs), []
    for step in reversed(steps):
        if step.target.stream in read:
            read |= {part.stream for part in step.sources}
        else:
            found.append(step.f)
    return found
