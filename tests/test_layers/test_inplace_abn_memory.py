"""What is kept for backward, and the peak, against BatchNorm and an in-place ReLU in the same run."""
import pytest
import torch
from torch import nn

from mmrev.layers import InPlaceABN
from mmrev.testing import PeakMemory

DEPTH, CHANNELS, SHAPE = 12, 16, (4, 16, 256, 256)  # outputs of 16 MiB each
OUTPUT = 4 * 16 * 256 * 256 * 4


def stack(norm):
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False), *norm())
                           for _ in range(DEPTH)])


def measure(network, memory_format=torch.contiguous_format, dtype=torch.float32):
    """Bytes alive after the forward and at the peak, without weights and their gradients."""
    for p in network.parameters():
        p.grad = torch.zeros_like(p) if p.requires_grad else None
    x = torch.randn(SHAPE).to(dtype, memory_format=memory_format)
    with PeakMemory() as memory:
        z = network(x)
        kept = memory.current
        z.sum().backward()
    return kept, memory.peak


def batchnorm(activation=lambda: nn.ReLU(inplace=True)):
    return lambda: (nn.BatchNorm2d(CHANNELS), activation())


def inplace_abn(**kwargs):
    return lambda: (InPlaceABN(CHANNELS, **kwargs), )


@pytest.mark.slow
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize('activation', ['leaky_relu', 'elu', 'identity'])
def test_a_stack_of_convolutions_keeps_half(activation, memory_format):
    kept, peak = measure(stack(inplace_abn(activation=activation)).to(memory_format=memory_format), memory_format)
    kept_before, peak_before = measure(stack(batchnorm()).to(memory_format=memory_format), memory_format)
    assert kept <= 0.52 * kept_before
    assert peak <= 0.60 * peak_before


def test_half_precision_keeps_half_too():
    kept, peak = measure(stack(inplace_abn()).to(torch.bfloat16), dtype=torch.bfloat16)
    kept_before, peak_before = measure(stack(batchnorm()).to(torch.bfloat16), dtype=torch.bfloat16)
    assert kept <= 0.52 * kept_before
    assert peak <= 0.60 * peak_before


@pytest.mark.slow
@pytest.mark.parametrize('trained', [True, False])
@pytest.mark.parametrize('activation', ['leaky_relu', 'relu'])
def test_frozen_statistics_save_memory_too(activation, trained):
    networks = [stack(norm).eval() for norm in (inplace_abn(activation=activation), batchnorm())]
    for network in networks:
        for m in network.modules():
            if isinstance(m, (InPlaceABN, nn.BatchNorm2d)):
                m.requires_grad_(trained)
    (kept, peak), (kept_before, peak_before) = map(measure, networks)
    assert kept <= 0.52 * kept_before
    assert peak <= 0.60 * peak_before


def test_frozen_identity_keeps_nothing():
    layer = InPlaceABN(CHANNELS, activation='identity').eval().requires_grad_(False)
    with PeakMemory() as memory:
        x = torch.randn(SHAPE, requires_grad=True)
        total = layer(x).sum()
        assert memory.current < 1.1 * OUTPUT  # the input
        total.backward()
    torch.testing.assert_close(x.grad, torch.ones(SHAPE) / (1 + layer.eps)**0.5 * (1 + layer.eps))


def test_backward_needs_one_tensor_beside_the_gradient_it_gets():
    x, dz = (torch.randn(SHAPE, requires_grad=r) for r in (True, False))
    layer = InPlaceABN(CHANNELS)
    z = layer(x)
    with PeakMemory() as memory:
        z.backward(dz)
    assert memory.peak <= 1.35 * OUTPUT  # the input's gradient and blocks


def test_an_input_is_not_kept_and_not_changed():
    layer, x = InPlaceABN(CHANNELS), torch.randn(SHAPE)
    before, version = x.clone(), x._version
    with PeakMemory() as memory:
        layer(x)
        assert memory.peak <= 1.01 * OUTPUT
    assert torch.equal(x, before) and x._version == version
