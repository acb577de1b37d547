"""Parts of reversible transformers: blocks of two streams, and levels computed from them."""
from typing import Iterable, List, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from mmrev.reversible import AdditiveStep, Coupling, ReversibleSequence, TwoStreamCoupling, unread

FUSION_MODES = ('concat', 'add', 'max', 'min', 'avg')


class FusedStreams(nn.Module):
    """A level computed from the streams: their channels are concatenated, normalized and fused.

    Args:
        norm: Norm of all channels; None for no norm.
        mode: How the streams are fused: ``'concat'``, ``'add'``, ``'max'``, ``'min'`` or ``'avg'``.

    Shape:
        Input: streams of ``(B, ..., C)``; output: ``(B, ..., C)``, for ``'concat'`` ``(B, ..., C * streams)``.
    """

    def __init__(self, norm: Optional[nn.Module] = None, mode: str = 'concat'):
        super().__init__()
        self.norm = nn.Identity() if norm is None else norm
        self.mode = mode

    def forward(self, *streams: Tensor) -> Tensor:
        x = self.norm(torch.cat(streams, dim=-1))
        if self.mode == 'concat':
            return x
        x = x.unflatten(-1, (len(streams), -1))  # (B, ..., streams, C)
        if self.mode == 'add':
            return x.sum(-2)
        return x.mean(-2) if self.mode == 'avg' else getattr(x, f'a{self.mode}')(-2)


class TwoStreamBlock(TwoStreamCoupling):
    """A reversible transformer block, and couplings that follow it.

    ``x[0] += f(x[1])``, attention; ``x[1] += g(x[0])``, MLP (RevViT, Mangalam et al. 2022, eqs. 4 and 5). Then
    come the couplings in ``after``, such as a :class:`~mmrev.reversible.NewStream` for a level to return. They belong
    to the block, so that a block's names in a state dict do not depend on the levels.
    """

    def __init__(self, f: nn.Module, g: nn.Module, streams: Tuple[int, int] = (0, 1)):
        super().__init__(f, g, streams)
        self.after = nn.ModuleDict()

    def steps(self) -> List[AdditiveStep]:
        return super().steps() + steps_of(self.after)


class Fork(Coupling):
    """Two streams that begin with the same value, ``x[a] = x[b] = f(x[sources])``; then the couplings in ``after``.

    Args:
        f: Not reversible: the sources are stored and read again in backward.
        streams: ``(a, b)``, the next two indices; ``(a, )`` begins only one stream.
        sources: Streams that ``f`` reads.
    """

    def __init__(self, f: nn.Module, streams: Sequence[int], sources: Sequence[int]):
        super().__init__()
        self.f = f
        self.copy = Copy()
        self.streams, self.sources = tuple(streams), tuple(sources)
        self.after = nn.ModuleDict()

    def steps(self) -> List[AdditiveStep]:
        first, *second = self.streams
        steps = [AdditiveStep(self.f, first, self.sources, creates=True)]
        steps += [AdditiveStep(self.copy, stream, (first, ), creates=True) for stream in second]
        return steps + steps_of(self.after)


def steps_of(couplings: nn.ModuleDict) -> List[AdditiveStep]:
    """The steps of one coupling after another."""
    return [step for coupling in couplings.values() for step in coupling.steps()]


def freeze_unread(sequence: ReversibleSequence, levels: Iterable[int]) -> None:
    """Freeze functions that no returned level needs. Without a gradient, they would stop ``DistributedDataParallel``.

    Args:
        sequence: The sequence of blocks.
        levels: Indices of the streams that are returned.
    """
    for f in unread([step for block in sequence.couplings for step in block.steps()], levels):
        f.requires_grad_(False)


class Copy(nn.Module):
    """A copy of ``x``."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clone()
