"""Couplings: modules that define in which order their functions are added to which stream.

A coupling knows forward and inverse only through its list of :class:`AdditiveStep`; the engine does the rest.
"""
from typing import Any, Callable, Dict, List, Sequence, Tuple

from torch import Tensor, nn

from mmrev import compat

from .step import AdditiveStep
from .streams import StreamPart, as_part


class Coupling(nn.Module):
    """Base class of couplings: a module that returns its steps, in order, from :meth:`steps`.

    A sequence calls it once, and again after ``train()``, ``eval()`` or a change of its modules or their hooks.
    """

    def steps(self) -> List[AdditiveStep]:
        raise NotImplementedError

    def forward(self, run: Callable[..., Any], *tensors: Tensor) -> Any:
        """``run(*tensors)``, which runs the steps, so that the hooks of ``fully_shard`` surround them."""
        return run(*tensors)


def surrounded(coupling: nn.Module, run: Callable[..., Any], *tensors: Tensor) -> Any:
    """``run(*tensors)``; within the hooks of ``fully_shard`` where that was applied to the coupling.

    They gather its weights before, release them after, and do so again around the backward of what ``run`` returns.
    """
    return coupling(run, *tensors) if compat.is_fully_sharded(coupling) else run(*tensors)


class TwoStreamCoupling(Coupling):
    """The reversible block of RevNet (Gomez et al. 2017, eq. 6), also RevViT's (Mangalam et al. 2022, eq. 4)::

        x[a] += f(x[b])
        x[b] += g(x[a])

    Args:
        f: Residual function of the first step.
        g: Residual function of the second step.
        streams: ``(a, b)``, indices or :class:`StreamPart`.
    """

    def __init__(self, f: nn.Module, g: nn.Module, streams: Tuple = (0, 1)):
        super().__init__()
        self.f = f
        self.g = g
        self.streams = tuple(as_part(s) for s in streams)

    def steps(self) -> List[AdditiveStep]:
        a, b = self.streams
        return [AdditiveStep(self.f, a, (b, )), AdditiveStep(self.g, b, (a, ))]


class NewStream(Coupling):
    """A stream that starts as a function of others: ``x[target] = f(x[sources])``."""

    def __init__(self, f: nn.Module, target: int, sources: Sequence = (0, )):
        super().__init__()
        self.f = f
        self.target = target
        self.sources = tuple(sources)

    def steps(self) -> List[AdditiveStep]:
        return [AdditiveStep(self.f, StreamPart(self.target), self.sources, creates=True)]


class RevSilo(Coupling):
    r"""Reversible bidirectional multi-scale fusion (RevBiFPN, Chiley et al. 2022, section 3.1 and appendix).

    Streams are pyramid levels, fine to coarse. Going down, :math:`u_j = x_j + \sum_{i<j} f_{ij}(x_i)`; going up,
    :math:`y_j = u_j + \sum_{i>j} g_{ij}(u_i)`. Every sum reads values from before its half, so the targets are taken
    from coarse to fine going down and from fine to coarse going up, and each term is a step of its own.

    Args:
        down: ``{(i, j): f_ij}`` for every ``i < j``.
        up: ``{(i, j): g_ij}`` for every ``i > j``.
        num_inputs: Levels that come in; a level more in ``down`` than that begins here as
            :math:`u_j = \sum_{i<j} f_{ij}(x_i)`.
    """

    def __init__(self, down: Dict[Tuple[int, int], nn.Module], up: Dict[Tuple[int, int], nn.Module], num_inputs: int):
        super().__init__()
        self.num_inputs = num_inputs
        self.num_outputs = 1 + max(j for _, j in down)
        self._check_pairs('down', down, [(i, j) for j in range(self.num_outputs) for i in range(j)])
        self._check_pairs('up', up, [(i, j) for i in range(self.num_outputs) for j in range(i)])
        if self.num_outputs - num_inputs not in (0, 1):
            raise ValueError(f'a silo adds no level or one, got {num_inputs} inputs and {self.num_outputs} outputs')
        self.down = nn.ModuleDict({f'{i}_{j}': f for (i, j), f in down.items()})
        self.up = nn.ModuleDict({f'{i}_{j}': g for (i, j), g in up.items()})

    @staticmethod
    def _check_pairs(name: str, given: dict, wanted: list) -> None:
        if set(given) != set(wanted):
            raise ValueError(f'`{name}` must hold exactly the pairs {sorted(wanted)}, got {sorted(given)}')

    def steps(self) -> List[AdditiveStep]:
        coarse_to_fine = range(self.num_outputs - 1, -1, -1)
        down = [
            AdditiveStep(self.down[f'{i}_{j}'], StreamPart(j), (StreamPart(i), ),
                         creates=(j == self.num_inputs and i == 0))
            for j in coarse_to_fine for i in range(j)
        ]
        up = [
            AdditiveStep(self.up[f'{i}_{j}'], StreamPart(j), (StreamPart(i), ))
            for j in range(self.num_outputs) for i in coarse_to_fine if i > j
        ]
        return down + up
