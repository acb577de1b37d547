"""The one error of the engine."""
from typing import Sequence


class ReversibilityError(RuntimeError):
    """A step cannot be inverted, replayed or differentiated as it was written.

    The message names the step (its index in the sequence), the module path of its ``f`` and the shapes involved, and
    says what to change.
    """


def captured(step: str, shape: Sequence[int]) -> str:
    """The message about a tensor of this shape that a function uses without having it."""
    return (f'{step} uses a tensor (shape {tuple(shape)}) that requires grad but is neither one of its parameters nor '
            f'one of its inputs; its gradient would be lost. Register it as a parameter, pass it as a stream, or '
            f'detach it')
