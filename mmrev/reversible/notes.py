"""Small results of a function's first evaluation, like the statistics of a batch, that its second one reuses."""
import threading
from functools import partial
from typing import Any, Callable, List, Optional, Tuple

from torch import Tensor


class _Current(threading.local):
    """Returns what a layer noted, or notes what it computes; None outside of reversible functions."""
    noted_by: Optional[Callable[..., Any]] = None


_current = _Current()


class Notes:
    """What the layers of a function noted in its first evaluation. It is kept until the backward, so it must be small.
    """

    __slots__ = ('_values', )

    def __init__(self) -> None:
        self._values: List[Tuple[Any, Any]] = []

    def __len__(self) -> int:
        return len(self._values)

    def write(self, f: Callable[..., Tensor], *sources: Tensor) -> Tensor:
        """The first evaluation: ``f(*sources)``."""
        self._values.clear()
        return _run(self._note, f, *sources)

    def read(self, run: Callable[..., Tensor], f: Callable[..., Tensor], *sources: Tensor) -> Tensor:
        """A later evaluation: ``run(f, *sources)``.

        It is repeated without notes if its layers ask for others than the first one wrote. A norm that is used twice
        could have found the note of its other use, where that did not ask: in compiled code, for example.
        """
        values, used, agrees = self._values, 0, True

        def find(owner: Any, compute: Callable[[], Any]) -> Any:
            nonlocal used, agrees
            if used == len(values) or values[used][0] is not owner:
                agrees = False
                return compute()
            used += 1
            value = values[used - 1][1]
            return compute() if value is None else value

        def evaluate(*sources: Tensor) -> Tensor:
            nonlocal agrees
            out = f(*sources)
            agrees = agrees and (used == len(values) or not takes_notes())
            return out

        out = run(partial(_run, find, evaluate), *sources)
        if not agrees:
            del out
            out = run(partial(_run, None, f), *sources)
        return out

    def _note(self, owner: Any, compute: Callable[[], Any]) -> Any:
        value = compute()
        self._values.append((owner, value))
        return value


def _run(noted_by: Optional[Callable[..., Any]], f: Callable[..., Tensor], *sources: Tensor) -> Tensor:
    before = _current.noted_by  # of a function that contains this sequence
    _current.noted_by = noted_by
    try:
        return f(*sources)
    finally:
        _current.noted_by = before


def takes_notes() -> bool:
    """Whether this is called within a function that is, or was, evaluated without a graph, and will be again."""
    return _current.noted_by is not None


def stop_noting() -> None:
    """Until this evaluation of the function ends, layers compute everything themselves."""
    _current.noted_by = None


def noted(owner: Any, compute: Callable[[], Any]) -> Any:
    """``compute()``; in a second evaluation of a reversible step's function, what it returned in the first.

    Args:
        owner: The layer that asks. Both evaluations must ask in the same order.
        compute: Returns tensors without a graph.
    """
    noted_by = _current.noted_by
    return compute() if noted_by is None else noted_by(owner, compute)


def skip_note(owner: Any) -> None:
    """Take the place of :func:`noted` where a layer computes everything itself, because a hook has to see it.

    The hook may be there in one evaluation and not in the other: a layer that is used twice would find the wrong note,
    and :meth:`Notes.read` does not notice it where the second evaluation stops noting.
    """
    noted(owner, lambda: None)
