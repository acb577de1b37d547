"""The steps of one coupling. Their weights and training flags are checked at once, which costs less than one by one."""
from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple

from torch import Tensor, nn

from .errors import ReversibilityError
from .function import Function, Weights, is_training


class Segment:
    """Steps ``[start, stop)``, those of a coupling: one node of autograd's graph.

    Args:
        coupling: The coupling.
        start: Index of its first step.
        functions: Those of its steps.
    """

    def __init__(self, coupling: nn.Module, start: int, functions: Sequence[Function]):
        self.coupling = coupling
        self.start, self.stop = start, start + len(functions)
        self._functions = functions
        self._modules = [m for function in functions for m in function.modules]
        self._training = [training for function in functions for training in function.training]
        self._tables = [table for function in functions for table in function.parameters]
        self._weights: Optional[Tuple[Weights, List[Weights]]] = None

    def weights(self) -> Tuple[Weights, List[Weights]]:
        """The current parameters, all and those of each function; returns the same objects until they change."""
        weights = self._weights
        if weights is None or not weights[0].is_current():
            each = [Weights(function.parameters) for function in self._functions]
            weights = self._weights = Weights(self._tables), each
        return weights

    def is_installed(self, weights: Weights) -> bool:
        """Whether ``weights`` are the parameters now, and the training flags those of the plan."""
        with self._functions[0].lock:  # not within a replay of another thread, which changes them temporarily
            return weights.are_installed() and list(map(is_training, self._modules)) == self._training


class Difference(NamedTuple):
    """What differs now from the forward, in the functions of a segment.

    Attributes:
        changed: Names and values of weights that were modified in place, or whose ``data`` was replaced.
        installed: Whether the weights are still the parameters, and the training flags the same.
    """
    changed: List[Tuple[str, Tensor]]
    installed: bool

    def refuse(self, weights: Weights, step: Callable[[], str]) -> None:
        """Raise an error if a weight of a step has been modified."""
        for name, p in self.changed:
            if any(p is x for x in weights.found):
                raise ReversibilityError(
                    f'the parameter `{name}` of {step()}, shape {tuple(p.shape)}, was modified in place, or its `data` '
                    f'replaced, between forward and backward; run the backward before the optimizer steps')


class Gathered:
    """The weights of a segment at one forward.

    Attributes:
        of_functions: Those of each function.
    """

    def __init__(self, segment: Segment):
        self._segment = segment
        self.weights, self.of_functions = segment.weights()
        self._state = self.weights.state()

    def difference(self) -> Difference:
        return Difference(self.weights.changed(self._state), self._segment.is_installed(self.weights))
