"""The atom of every reversible network here: the additive step ``x[target] += f(x[sources])`` and its undo.

A RevNet block is two steps, a RevSilo a list of them, a new pyramid level a step whose target does not exist yet. As
long as a step's target is none of its sources, ``x[target] -= f(x[sources])`` takes it back exactly (up to rounding),
so a list of steps is inverted by undoing them in reverse order.
"""
from dataclasses import dataclass
from typing import List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn


class StreamPart(NamedTuple):
    """A stream, or channels ``[start, stop)`` of one (dimension 1 of ``(B, C, ...)``)."""
    stream: int
    start: Optional[int] = None
    stop: Optional[int] = None

    @property
    def whole(self) -> bool:
        return self.start is None

    def of(self, x: Tensor) -> Tensor:
        """The part of the stream's tensor ``x``; a view."""
        return x if self.whole else x.narrow(1, self.start, self.stop - self.start)

    def overlaps(self, other: 'StreamPart') -> bool:
        if self.stream != other.stream:
            return False
        return self.whole or other.whole or (self.start < other.stop and other.start < self.stop)


def as_part(stream) -> StreamPart:
    return stream if isinstance(stream, StreamPart) else StreamPart(stream)


@dataclass(frozen=True)
class AdditiveStep:
    """``x[target] += f(x[sources])``.

    Args:
        f: The residual function; takes one tensor per source, returns a tensor of the target's shape.
        target: The stream (or part of one) that is added to.
        sources: The streams that ``f`` reads; none may overlap the target.
        creates: The target does not exist before this step: ``x[target] = f(x[sources])``, in the first source's
            dtype.

    Raises:
        ValueError: If the target is among the sources, which no subtraction could take back.
    """
    f: nn.Module
    target: StreamPart
    sources: Tuple[StreamPart, ...]
    creates: bool = False

    def __post_init__(self):
        object.__setattr__(self, 'target', as_part(self.target))
        object.__setattr__(self, 'sources', tuple(as_part(s) for s in self.sources))
        if any(self.target.overlaps(source) for source in self.sources):
            raise ValueError(f'the target of an additive step must not be among its sources, got target {self.target} '
                             f'and sources {self.sources}')
        if self.creates and not self.target.whole:
            raise ValueError(f'a step that creates a stream creates the whole of it, got target {self.target}')


class StreamBuffers:
    """The tensors of all streams while steps run over them.

    Writes happen in place only on tensors that this object made; a tensor that came from elsewhere is copied by its
    first write. It holds activations in the forward and in the inversion, and gradients in the backward.
    """

    def __init__(self, tensors: Sequence[Optional[Tensor]]):
        self.tensors: List[Optional[Tensor]] = list(tensors)
        self._owned = [False] * len(self.tensors)

    def read(self, part: StreamPart) -> Optional[Tensor]:
        x = self.tensors[part.stream]
        return None if x is None else part.of(x)

    def create(self, part: StreamPart, value: Tensor) -> None:
        """Append a stream."""
        if part.stream != len(self.tensors):
            raise ValueError(f'a new stream must get the next index, {len(self.tensors)}, got {part.stream}')
        self.tensors.append(value)
        self._owned.append(False)

    def pop(self, part: StreamPart) -> None:
        """Drop the newest stream."""
        self.tensors.pop(part.stream)
        self._owned.pop(part.stream)

    def drop(self, stream: int) -> None:
        """Let the value of a stream go that nobody reads any more; its place stays."""
        self.tensors[stream] = None
        self._owned[stream] = False

    def add(self, part: StreamPart, value: Tensor, alpha: int = 1) -> None:
        """``x[part] += alpha * value``; the stream keeps its dtype."""
        x = self.tensors[part.stream]
        if self._owned[part.stream]:
            part.of(x).add_(value, alpha=alpha)
            return
        if part.whole:
            self.tensors[part.stream] = torch.add(x, value, alpha=alpha).to(x.dtype)
        else:
            self.tensors[part.stream] = x.clone()
            part.of(self.tensors[part.stream]).add_(value, alpha=alpha)
        self._owned[part.stream] = True

    def add_gradient(self, part: StreamPart, value: Tensor, like: Tensor, foreign: Optional[Tensor]) -> None:
        """As :meth:`add`, where an absent tensor means zero.

        Args:
            like: The activation of the same stream, for the shape where there is no gradient yet.
            foreign: A tensor that ``value`` may share memory with and that will be written to later.
        """
        if self.tensors[part.stream] is not None:
            self.add(part, value)
        elif part.whole:
            self.tensors[part.stream] = value.clone() if shares_memory(value, foreign) else value
        else:
            self.tensors[part.stream] = torch.zeros_like(like)
            self._owned[part.stream] = True
            part.of(self.tensors[part.stream]).copy_(value)

    def own(self) -> None:
        """Declare that nobody else holds the tensors that are here; what comes later may be somebody's."""
        self._owned = [x is not None for x in self.tensors]

    def aliases(self) -> List[Tensor]:
        """New tensor objects on the same memory: an input that no step touched must not come out as itself."""
        return [x.detach() for x in self.tensors]

    def disown(self) -> List[Tensor]:
        """The tensors as they are; the next write to each will make a copy."""
        self._owned = [False] * len(self.tensors)
        return list(self.tensors)


def shares_memory(a: Tensor, b: Optional[Tensor]) -> bool:
    """Whether both lie in the same storage; false for tensors without any memory (empty or meta)."""
    if b is None:
        return False
    address = a.untyped_storage().data_ptr()
    return address != 0 and address == b.untyped_storage().data_ptr()
