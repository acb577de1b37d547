"""The streams as they were before steps that keep them (``keep='state'``), from which the undo starts afresh."""
from typing import Callable, Dict, FrozenSet, List, Optional, Tuple

from torch import Tensor

from .errors import ReversibilityError
from .streams import StreamBuffers


class States:
    """Kept streams of one call, by step, with their versions."""

    def __init__(self) -> None:
        self._kept: Dict[int, List[Tuple[Optional[Tensor], int]]] = {}

    def __bool__(self) -> bool:
        return bool(self._kept)

    def tensors(self) -> List[Optional[Tensor]]:
        """All kept streams; None where one is not needed."""
        return [x for kept in self._kept.values() for x, _ in kept]

    def keep(self, index: int, streams: StreamBuffers, wanted: Optional[FrozenSet[int]]) -> None:
        """Keep the ``wanted`` streams, or all if None, as they are before step ``index``."""
        self._kept[index] = [(x, x._version) if x is not None and (wanted is None or i in wanted) else (None, 0)
                             for i, x in enumerate(streams.tensors)]
        streams.disown()

    def restore(self, index: int, streams: StreamBuffers, release: bool, describe: Callable[[int], str]) -> None:
        """Set ``streams`` to what was kept before step ``index``, if anything was.

        Raises:
            ReversibilityError: If a kept stream was modified in place.
        """
        for stream, (x, expected) in enumerate(self._kept.get(index, ())):
            if x is not None:
                if x._version != expected:
                    raise ReversibilityError(
                        f'stream {stream}, kept as it was before {describe(index)}, shape {tuple(x.shape)}, was '
                        f'modified in place after the forward; use an out-of-place operation, or clone it first')
                streams.put(stream, x)
        if release:
            self._kept.pop(index, None)
