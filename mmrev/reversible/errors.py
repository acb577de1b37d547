"""The one error of the engine."""


class ReversibilityError(RuntimeError):
    """A step cannot be inverted, replayed or differentiated as it was written.

    The message names the step (its index in the sequence), the module path of its ``f`` and the shapes involved, and
    says what to change.
    """
