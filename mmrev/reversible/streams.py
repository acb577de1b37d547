"""Streams, parts of them, and the buffers that hold them while steps run."""
from operator import attrgetter
from typing import Any, Iterable, List, NamedTuple, Optional, Sequence, Union

import torch
from torch import Tensor

_version = attrgetter('_version')
_use_count: Any = torch._C._storage_Use_Count


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
        if self.start is None or self.stop is None:
            return x
        return x.narrow(1, self.start, self.stop - self.start)

    def overlaps(self, other: 'StreamPart') -> bool:
        if self.stream != other.stream:
            return False
        if self.start is None or self.stop is None or other.start is None or other.stop is None:
            return True
        return self.start < other.stop and other.start < self.stop


def as_part(stream: Union[int, StreamPart]) -> StreamPart:
    return stream if isinstance(stream, StreamPart) else StreamPart(stream)


class StreamBuffers:
    """The tensors of all streams while steps run over them.

    Writes happen in place only on tensors that this object made; a tensor that came from elsewhere is copied by its
    first write. It holds activations in the forward and in the undo, and gradients in the backward.

    Attributes:
        replaced: Receives what is dropped here, for one that must keep it a while (see :mod:`.overlap`).
    """

    replaced: Optional[List[Tensor]] = None

    def __init__(self, tensors: Sequence[Optional[Tensor]]):
        self.tensors: List[Optional[Tensor]] = list(tensors)
        self._owned = [False] * len(self.tensors)

    @classmethod
    def dense(cls, tensors: Sequence[Tensor]) -> 'StreamBuffers':
        """With a copy of each tensor whose elements overlap or leave gaps.

        Sums are dense, so the undo would reconstruct such a stream with other strides, and the random numbers of some
        operators on a GPU (dropout) follow the strides.
        """
        buffers = cls([_dense(x) for x in tensors])
        buffers._owned = [copy is not x for copy, x in zip(buffers.tensors, tensors)]
        return buffers

    def read(self, part: StreamPart) -> Optional[Tensor]:
        x = self.tensors[part.stream]
        return x if x is None or part.start is None else part.of(x)

    def get(self, part: StreamPart) -> Tensor:
        """Like :meth:`read`, for a stream that must exist."""
        try:
            x = self.tensors[part.stream]
        except IndexError:
            raise ValueError(f'a step needs stream {part.stream}, but there are only {len(self.tensors)}') from None
        assert x is not None, f'stream {part.stream} was released although a step reads it'
        return x if part.start is None else part.of(x)

    def put(self, stream: int, value: Optional[Tensor]) -> None:
        """Set a stream to a tensor that others also hold."""
        self._replace(stream, value)
        self._owned[stream] = False

    def create(self, part: StreamPart, value: Tensor) -> None:
        """Append a stream."""
        if part.stream != len(self.tensors):
            raise ValueError(f'a new stream must get the next index, {len(self.tensors)}, got {part.stream}')
        self.tensors.append(_dense(value))
        self._owned.append(False)

    def pop(self, part: StreamPart) -> None:
        """Remove the newest stream."""
        self._replace(part.stream, None)
        self.tensors.pop(part.stream)
        self._owned.pop(part.stream)

    def release(self, stream: int) -> None:
        """Release a stream that no remaining step reads; keep its index."""
        self.put(stream, None)

    def add(self, part: StreamPart, value: Tensor, alpha: int = 1) -> None:
        """``x[part] += alpha * value``; the stream keeps its dtype."""
        x = self.tensors[part.stream]
        assert x is not None, f'stream {part.stream} was released although a step writes it'
        if self._owned[part.stream]:
            (x if part.start is None else part.of(x)).add_(value, alpha=alpha)
            return
        if part.start is None:
            self._replace(part.stream, torch.add(x, value, alpha=alpha).to(x.dtype))
        else:
            copied = x.clone()
            part.of(copied).add_(value, alpha=alpha)
            self._replace(part.stream, copied)
        self._owned[part.stream] = True

    def share_if_held(self, streams: Iterable[int]) -> bool:
        """Like :meth:`disown`, for those of these streams that a function, or a hook on it, has kept.

        Returns:
            Whether others hold any of the streams now.
        """
        shared = False
        for stream in streams:
            x = self.tensors[stream] if stream < len(self.tensors) else None
            if x is not None and (not self._owned[stream] or holders(x) > 1):
                self._owned[stream], shared = False, True
        return shared

    def _replace(self, stream: int, value: Optional[Tensor]) -> None:
        x = self.tensors[stream]
        if self.replaced is not None and x is not None:
            self.replaced.append(x)
        self.tensors[stream] = value

    def add_gradient(self, part: StreamPart, value: Tensor, like: Optional[Tensor], foreign: Optional[Tensor]) -> None:
        """Like :meth:`add`, but an absent tensor counts as zero.

        Args:
            like: The activation of the whole stream, for the shape where there is no gradient yet.
            foreign: A tensor that ``value`` may share memory with and that is written to later.
        """
        if self.tensors[part.stream] is not None:
            self.add(part, value)
        elif part.whole:
            self.put(part.stream, value.clone() if shares_memory(value, foreign) else value)
        else:
            assert like is not None
            zeros = torch.zeros_like(like)
            part.of(zeros).copy_(value)
            self.tensors[part.stream], self._owned[part.stream] = zeros, True

    def own(self) -> None:
        """Declare that no one else holds the current tensors; later ones may be shared."""
        self._owned = [x is not None for x in self.tensors]

    def aliases(self) -> List[Tensor]:
        """New tensor objects that share the memory, because an input must not be returned as the same object."""
        return [x.detach() for x in self.tensors if x is not None]

    def disown(self, streams: Optional[Iterable[int]] = None) -> None:
        """Declare that others also hold these tensors, by default all: the next write to each makes a copy."""
        for stream in range(len(self.tensors)) if streams is None else streams:
            self._owned[stream] = False


def _dense(x: Tensor) -> Tensor:
    """``x``, or a copy if its elements overlap or leave gaps."""
    expected = 1
    for stride, size in sorted((stride, size) for stride, size in zip(x.stride(), x.shape) if size != 1):
        if stride != expected:
            return x.clone()
        expected *= size
    return x


def holders(x: Tensor) -> int:
    """How many tensors share the storage of ``x``."""
    storage = x.untyped_storage()
    return _use_count(storage._cdata) - 1  # `storage` is itself a holder


def shares_memory(a: Tensor, b: Optional[Tensor]) -> bool:
    """Whether both lie in the same storage; false for tensors without any memory (empty or meta)."""
    if b is None or a.layout is not torch.strided:
        return False
    storage, other = a.untyped_storage(), b.untyped_storage()
    return storage._cdata == other._cdata and storage.nbytes() > 0


def version(x: Tensor) -> int:
    """The version of a tensor, which every declared change in place increases."""
    return 0 if x.is_inference() else x._version


def versions(streams: Sequence[Tensor]) -> List[int]:
    """Versions of streams, which are never inference tensors."""
    return list(map(_version, streams))
