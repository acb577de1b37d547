"""What a step keeps for the backward: nothing, the streams before it, or its graph."""
from typing import Callable, List, Sequence, Union

from .step import AdditiveStep

Keep = Union[None, str, Sequence[str], Callable[[AdditiveStep], str]]
UNDO, STATE, GRAPH = 'undo', 'state', 'graph'


def check_keep(keep: Keep) -> None:
    """Refuse what no network can keep; what a function returns and the length of a list are checked by the plan.

    Raises:
        TypeError: If it is no name, list or function.
        ValueError: If a name is unknown.
    """
    if callable(keep):
        return
    if keep is not None and not isinstance(keep, (str, list, tuple)):
        raise TypeError("`keep` must be 'undo', 'state' or 'graph', a list of these, or a function of a step; got "
                        f'{keep!r}')
    names = [keep or UNDO] if keep is None or isinstance(keep, str) else keep
    unknown = [name for name in names if name not in (UNDO, STATE, GRAPH)]
    if unknown:
        raise ValueError(f"`keep` must be 'undo', 'state' or 'graph' for each step, got {unknown[0]!r}")


def resolve_keep(keep: Keep, steps: Sequence[AdditiveStep]) -> List[str]:
    """What each of the steps keeps."""
    check_keep(keep)
    if keep is None or isinstance(keep, str):
        found = [keep or UNDO] * len(steps)
    else:
        found = [keep(step) for step in steps] if callable(keep) else list(keep)
    if len(found) != len(steps):
        raise ValueError(f'`keep` must have an entry for each of the {len(steps)} steps, got {len(found)}')
    check_keep(found)
    return found
