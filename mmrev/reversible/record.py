"""What a call records of each step for the backward."""
from functools import partial
from typing import Callable, List, Optional, Sequence

from torch import Tensor

from mmrev import compat

from .errors import LEFT_BEHIND, ReversibilityError
from .gradients import WeightGradients, add_weight_gradients, is_held_elsewhere
from .observe import Observer
from .replay import Replay
from .step import AdditiveStep
from .streams import StreamBuffers


class Evaluated:
    """A step's function evaluated with a graph (or, where no gradient is needed, without)."""
    __slots__ = ('edge', 'dtype', 'sources', 'likes', 'observer', 'replayed')

    def __init__(self, out: Tensor, sources: List[Tensor], likes: List[Optional[Tensor]],
                 observer: Optional[Observer], replayed: bool):
        self.edge = compat.output_edge(out) if out.requires_grad else None
        self.dtype = out.dtype
        self.sources = sources
        self.likes = likes  # the whole streams that the sources are parts of
        self.observer = observer
        self.replayed = replayed

    def add_gradients(self, found: Sequence[Optional[Tensor]], step: AdditiveStep, weights: Sequence[Tensor],
                      gradient: Tensor, streams: StreamBuffers, total: WeightGradients) -> bool:
        """Add up the gradients of an evaluation.

        Args:
            found: Of the sources that require grad, then of the weights.
            step: The step.
            weights: Its weights that require grad.
            gradient: Of the output; it may share memory with those found, and is overwritten later.
            streams: Receives the gradients of the sources.
            total: Receives those of the weights.

        Returns:
            Whether other tensors share the memory of ``gradient``, those found among them.
        """
        held = is_held_elsewhere(gradient, step.target) or id(gradient) in map(id, found)
        foreign = gradient if held else None
        remaining = iter(found)
        for part, x, like in zip(step.sources, self.sources, self.likes):
            if x.requires_grad and (g := next(remaining)) is not None:
                streams.add_gradient(part, g, like, foreign)
        add_weight_gradients(weights, list(remaining), foreign, total)
        return held


def refuse_other_gradients(sources: Sequence[Tensor], step: Callable[[], str]) -> None:
    """Refuse that a gradient reaches the sources past the step, from a tensor that a function or a hook stored."""
    for x in sources:
        if x.requires_grad:
            x.register_post_accumulate_grad_hook(partial(_refuse_other_gradient, step))


def _refuse_other_gradient(step: Callable[[], str], x: Tensor) -> None:
    raise ReversibilityError(f'{step()} leaves a tensor behind whose gradient arrives at its input (shape '
                             f'{tuple(x.shape)}), past its output: {LEFT_BEHIND}')


class Record:
    """What the backward must know of one step's forward."""
    __slots__ = ('replay', 'source_needs_grad', 'trains', 'before', 'kept', 'out', 'versions', 'watched')

    def __init__(self, replay: Replay, source_needs_grad: List[bool], trains: bool):
        self.replay = replay
        self.source_needs_grad = source_needs_grad
        self.trains = trains  # whether a weight or a source needs a gradient
        self.before: Optional[Tensor] = None  # the target before the step, where reconstruction is checked
        self.kept: Optional[Evaluated] = None  # where the step keeps its graph
        self.out: Optional[Tensor] = None  # of a kept graph, where the undo needs it
        self.versions: List[int] = []  # of a kept graph's sources and output
        self.watched: Optional[Observer] = None  # of the forward, if its hooks may have taken tensors with a graph
