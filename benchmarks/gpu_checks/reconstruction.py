"""Streams that the backward reconstructs, in whole networks and after random numbers."""
import torch
from support.backbones import HEIGHT, WIDTH
from support.images import image
from torch import Tensor, nn

from mmrev.reversible import ReversibleSequence, TwoStreamCoupling, check_reconstruction
from mmrev.reversible.check import ReconstructionReport
from mmrev.testing import assert_same_gradients

from . import On, check
from .gradients import REVERSIBLE, distance, gradients, network


def largest(report: ReconstructionReport) -> float:
    """The largest relative error of a reconstructed stream."""
    assert report.worst is not None
    return report.worst.error


@check('reconstruction of streams')
def reconstruction(on: On) -> str:
    figures = []
    for name in REVERSIBLE:
        for dtype, allowed in ((None, 1e-4), (torch.float16, 0.1)):
            with check_reconstruction() as report:
                gradients(network(name).to(on.device), image(2, HEIGHT, WIDTH).to(on.device), dtype)
            worst = largest(report)
            figures.append(f'{name} {"float32" if dtype is None else "float16"} {worst:.1e}')
            assert worst < allowed, figures[-1]
    return ', '.join(figures)


@check('dropout first in a function, on chunks')
def dropout_on_chunks(on: On) -> str:
    """The mask of CUDA's dropout depends on strides."""
    torch.manual_seed(0)
    functions = [nn.Sequential(nn.Dropout(0.3), nn.Conv2d(8, 8, 3, padding=1)) for _ in range(4)]
    module = ReversibleSequence([TwoStreamCoupling(*functions[:2]), TwoStreamCoupling(*functions[2:])])
    module, x = module.to(on.device), torch.randn(2, 16, 12, 12, device=on.device)
    for made in (x, x.to(memory_format=torch.channels_last)):
        assert_same_gradients(module, *(half.clone() for half in made.chunk(2, dim=1)), rtol=1e-4)
        found = [gradients(_OfChunks(module), y) for y in (made, made)]
        with check_reconstruction() as report:
            gradients(_OfChunks(module), made)
        assert largest(report) < 1e-4, f'streams reconstructed to {largest(report):.1e}: another mask'
    return f'{distance(*found):.0e} apart, streams reconstructed to {largest(report):.1e}'


class _OfChunks(nn.Module):

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: Tensor):
        return self.module(*x.chunk(2, dim=1))
