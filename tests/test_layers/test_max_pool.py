"""3x3 max pooling: PyTorch's own operator is the reference, for values, gradients and what an exporter sees."""
import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import mmrev.layers.fused.max_pool as fused_max_pool
from mmrev.layers import MaxPool3x3, max_pool3x3, max_pool_tokens
from mmrev.testing import PeakMemory
from support.images import random

LAYOUTS = [torch.contiguous_format, torch.channels_last]


def reference(x, stride=1, dilation=1) -> torch.Tensor:
    return F.max_pool2d(F.pad(x, (dilation, ) * 4, value=float('-inf')), 3, stride, 0, dilation)


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('stride, dilation', [(1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (3, 1), (3, 4)])
def test_values_and_gradients_are_those_of_max_pool2d(stride, dilation, layout):
    """Values that tie as well, where the gradient goes to the first."""
    for size in ((1, 1), (1, 7), (2, 3), (8, 8), (9, 5)):
        x = random(2, 3, *size).round().contiguous(memory_format=layout).requires_grad_()
        expected = reference(x, stride, dilation)
        with torch.no_grad():
            assert torch.equal(max_pool3x3(x, stride, dilation), expected)
        found = MaxPool3x3(stride, dilation)(x)
        assert torch.equal(found, expected)
        cotangent = random(*expected.shape)
        gradients = [torch.autograd.grad(y, x, cotangent)[0] for y in (found, expected)]
        torch.testing.assert_close(*gradients)


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('grad', [True, False])
def test_the_memory_format_is_kept(layout, grad):
    x = random(2, 3, 6, 8).contiguous(memory_format=layout).requires_grad_(grad)
    y = max_pool3x3(x, 2)
    assert y.is_contiguous(memory_format=layout)
    if grad:
        y.sum().backward()
        assert x.grad.is_contiguous(memory_format=layout)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize('grad', [True, False])
def test_other_types(dtype, grad):
    x = random(2, 3, 6, 5, dtype=dtype).requires_grad_(grad)
    y = max_pool3x3(x)
    assert y.dtype == dtype and torch.equal(y, F.max_pool2d(x, 3, 1, 1))


def test_nan_is_seen_by_its_neighbours():
    x = random(1, 1, 5, 5)
    x[0, 0, 2, 2] = float('nan')
    assert torch.equal(max_pool3x3(x).isnan(), F.max_pool2d(x, 3, 1, 1).isnan())


def test_gradcheck():
    x = random(2, 2, 5, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(max_pool3x3, (x, ))


@pytest.mark.parametrize('stride, dilation', [(1, 1), (2, 1), (1, 2), (2, 3)])
def test_second_derivatives(stride, dilation):
    x = random(2, 2, 6, 5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda x: max_pool3x3(x, stride, dilation).square(), (x, ))


@pytest.mark.parametrize('shape', [(2, 3, 9, 8), (2, 64, 40, 48)], ids=['small', 'large'])
@pytest.mark.parametrize('layout', LAYOUTS)
def test_the_input_is_left_alone_unless_it_may_be_overwritten(layout, shape):
    x = random(*shape).contiguous(memory_format=layout)
    before, expected = x.clone(), F.max_pool2d(x, 3, 1, 1)
    assert torch.equal(max_pool3x3(x), expected) and torch.equal(x, before)
    found = max_pool3x3(x, inplace=True)
    assert torch.equal(found, expected) and found.is_contiguous(memory_format=layout)
    kept = before.requires_grad_()
    max_pool3x3(kept, inplace=True).sum().backward()  # which nothing but inference does
    assert torch.equal(kept, random(*shape))


@pytest.mark.parametrize('grad', [True, False])
def test_tokens_are_pooled_on_their_map(grad):
    x = random(2, 4, 6, 5).requires_grad_(grad)  # (B, H, W, C)
    y = max_pool_tokens(x)
    assert y.is_contiguous()
    assert torch.equal(y, F.max_pool2d(x.permute(0, 3, 1, 2), 3, 1, 1).permute(0, 2, 3, 1))


def test_no_image_at_all():
    assert max_pool3x3(torch.empty(0, 3, 8, 8), 2).shape == (0, 3, 4, 4)


@pytest.mark.parametrize('device', ['cpu', 'meta'])
@pytest.mark.parametrize('shape, size', [((64, 64), 2), ((192, 192), 2), ((3, 16_384), 4)])
def test_backward_keeps_one_small_index_per_output(shape, size, device):
    x = random(1, 4, *shape).to(device).requires_grad_()
    with PeakMemory() as memory:
        y = max_pool3x3(x, 2)
        assert memory.current == y.numel() * (y.element_size() + size)
    if device == 'cpu':
        cotangent = random(*y.shape)
        gradients = [torch.autograd.grad(out, x, cotangent)[0] for out in (y, reference(x, 2))]
        torch.testing.assert_close(*gradients)


class LargestIndex(TorchDispatchMode):
    """Values of the largest tensor of 8-byte integers that an operator makes."""
    values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else (out, ):
            if isinstance(x, torch.Tensor) and x.dtype == torch.long:
                self.values = max(self.values, x.numel())
        return out


@pytest.mark.parametrize('layout', LAYOUTS)
def test_an_index_of_eight_bytes_exists_for_some_samples_at_a_time(layout, monkeypatch):
    monkeypatch.setattr(fused_max_pool, '_BLOCK', 2 * 3 * 8 * 9)  # two of five samples
    x = random(5, 3, 8, 9).round().contiguous(memory_format=layout).requires_grad_()
    cotangent = random(5, 3, 8, 9)
    with LargestIndex() as largest:
        y = max_pool3x3(x)
        gradient, = torch.autograd.grad(y, x, cotangent)
    assert largest.values == 2 * 3 * 8 * 9
    expected = reference(x)
    assert torch.equal(y, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, x, cotangent)[0])


def test_on_a_gpu_blocks_are_large():
    with FakeTensorMode():
        found = [len(list(fused_max_pool._blocks(torch.empty(32, 64, 112, 112, dtype=torch.int16, device=device))))
                 for device in ('cuda', 'cpu')]
    assert found == [4, 32]


@pytest.mark.parametrize('layout', LAYOUTS)
def test_a_step_needs_little_more_than_output_gradient_and_small_index(layout):
    x = random(16, 16, 64, 64).contiguous(memory_format=layout).requires_grad_()  # 4 MiB
    with PeakMemory() as memory:
        y = max_pool3x3(x)
        assert memory.peak < 2.2 * x.nbytes  # 3.5 and more with an index of eight bytes for all samples
        y.backward(y.detach())
    assert memory.peak < 3.2 * x.nbytes  # 5.5 and more


def test_a_traced_network_has_the_plain_operator():
    traced = torch.jit.trace(MaxPool3x3(2), random(1, 2, 8, 8))
    assert 'aten::max_pool2d' in str(traced.inlined_graph)
