"""Norms and pooling: against float64 on the CPU in all layouts, and which kernel is faster."""
import copy
import time
from itertools import product
from typing import Callable
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mmrev.layers.fused.max_pool as fused_max_pool
from mmrev.layers import InPlaceABN, max_pool3x3, norm_act

from . import On, check

SHAPES = {'2D': (64, 16), 'NCHW': (4, 16, 12, 10), 'NHWC': (4, 16, 12, 10), '5D': (2, 16, 4, 6, 5)}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
ALLOWED = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


class NormAct(nn.Module):
    """Batch norm and SiLU by :func:`norm_act`."""

    def __init__(self, ndim: int):
        super().__init__()
        self.norm = {2: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[ndim](16)

    def forward(self, x: Tensor) -> Tensor:
        return norm_act(x, self.norm, nn.SiLU())


def results(layer: nn.Module, x: Tensor, dz: Tensor) -> Tensor:
    """Output and gradients of input and weights, each relative to its largest value, in float64 on the CPU."""
    x = x.clone().requires_grad_()
    z = layer(x)
    found = [z, *torch.autograd.grad(z, [x, *layer.parameters()], dz.to(z.dtype))]
    return [y.detach().double().cpu() for y in found]


def register(name: str, make: Callable[[int], nn.Module]) -> None:

    @check(f'{name} against float64')
    def against_float64(on: On) -> str:
        figures = {}
        for layout, shape in SHAPES.items():
            for frozen in (False, True):
                torch.manual_seed(0)
                layer, x, dz = make(len(shape)).train(not frozen), torch.randn(shape) + 0.5, torch.randn(shape)
                for p in layer.parameters():
                    nn.init.uniform_(p, 0.5, 1.5)
                for dtype in DTYPES:
                    rounded = x.to(dtype)
                    expected = results(copy.deepcopy(layer).double(), rounded.double(), dz.double())
                    here = rounded.to(on.device)
                    here = here.contiguous(memory_format=torch.channels_last) if layout == 'NHWC' else here
                    found = results(copy.deepcopy(layer).to(on.device), here, dz.to(on.device))
                    worst = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(found, expected))
                    kind = str(dtype).split('.')[-1]
                    figures[kind] = max(worst, figures.get(kind, 0.))
                    assert worst < ALLOWED[dtype], f'{layout}, {kind}, {"frozen" if frozen else "batch"}: {worst:.1e}'
        return ', '.join(f'{kind} {worst:.1e}' for kind, worst in figures.items())


register('InPlaceABN', lambda ndim: InPlaceABN(16))
register('norm_act', NormAct)


def milliseconds(on: On, function: Callable[..., object], *args: object) -> float:
    """Of one call of ``function(*args)``, the median of several."""
    found = []
    for _ in range(on.times(20)):
        if on.is_cuda:
            torch.cuda.synchronize(on.device)
        start = time.perf_counter()
        function(*args)
        if on.is_cuda:
            torch.cuda.synchronize(on.device)
        found.append(1e3 * (time.perf_counter() - start))
    return sorted(found)[len(found) // 2]


@check("time of batch norm's forward, ATen's kernel against the one that PyTorch chooses")
def kernels(on: On) -> str:
    figures = []
    for channels, side in ((64, 112), (256, 56), (1024, 14)):
        for memory_format in (torch.contiguous_format, torch.channels_last):
            shape = (2 if on.is_small else 64, channels, side, side)
            x = torch.randn(shape, device=on.device).contiguous(memory_format=memory_format)
            vectors = [torch.ones(channels, device=on.device) for _ in range(4)]
            aten = milliseconds(on, torch.native_batch_norm, x, *vectors, True, 0.1, 1e-5)
            chosen = milliseconds(on, F.batch_norm, x, *vectors[2:], *vectors[:2], True, 0.1, 1e-5)
            layout = 'NCHW' if memory_format is torch.contiguous_format else 'NHWC'
            figures.append(f'{channels}x{side}x{side} {layout} {aten:.2f} / {chosen:.2f} ms')
    return ', '.join(figures)


@check('max pooling against PyTorch')
def max_pooling(on: On) -> str:
    """In one block, and with a block for each sample."""
    values = fused_max_pool._BLOCK_ON_GPU
    for memory_format, block in product((torch.contiguous_format, torch.channels_last), (values, 1)):
        for (stride, dilation), dtype in product(((1, 1), (2, 1), (1, 2)), DTYPES):
            with mock.patch.object(fused_max_pool, '_BLOCK_ON_GPU', block):
                x = torch.randn(2, 8, 19, 22, device=on.device, dtype=dtype).contiguous(memory_format=memory_format)
                found = []
                for pool in (max_pool3x3, _reference):
                    ours = x.clone().requires_grad_()
                    y = pool(ours, stride, dilation)
                    y.backward(torch.linspace(-1, 1, y.numel(), device=on.device).to(dtype).view_as(y))
                    found.append((y.detach(), ours.grad))
                assert torch.equal(found[0][0], found[1][0])
                torch.testing.assert_close(found[0][1], found[1][1], rtol=2e-2, atol=2e-2)
    return 'the same values and gradients'


def _reference(x: Tensor, stride: int, dilation: int) -> Tensor:
    return F.max_pool2d(F.pad(x, (dilation, ) * 4, value=float('-inf')), 3, stride, 0, dilation)


@check("time of max pooling's forward and backward, with an index of two bytes against PyTorch's own")
def time_of_max_pooling(on: On) -> str:
    x = torch.randn(2 if on.is_small else 64, 256, 56, 56, device=on.device, requires_grad=True)
    ours, plain = (milliseconds(on, lambda pool: pool(x).sum().backward(), pool)
                   for pool in (max_pool3x3, lambda x: F.max_pool2d(x, 3, 1, 1)))
    return f'{ours:.2f} / {plain:.2f} ms'
