"""Convolution and norm in the forms that are fastest on a CPU: PyTorch's own are the reference."""
import pytest
import torch
from torch import nn

from mmrev.layers import conv_norm, convolve

LAYOUTS = [torch.contiguous_format, torch.channels_last]
# channels in and out, side of the kernel, stride, side of the map: few values, products of matrices, folded weights
SHAPES = [(8, 16, 1, 1, 5), (8, 16, 1, 2, 7), (8, 2048, 1, 1, 12), (8, 512, 1, 1, 32), (4, 64, 3, 2, 96),
          (512, 512, 3, 1, 16)]


def layers(before, channels, size, stride, bias=False, layout=torch.channels_last):
    torch.manual_seed(0)
    conv = nn.Conv2d(before, channels, size, stride, size // 2, bias=bias).to(memory_format=layout)
    norm = nn.BatchNorm2d(channels)
    for values in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(values)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    return conv, norm


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('bias', [False, True])
@pytest.mark.parametrize('before, channels, size, stride, side', SHAPES)
def test_inference_computes_the_same(before, channels, size, stride, side, bias, layout):
    conv, norm = layers(before, channels, size, stride, bias, layout)
    x = torch.randn(2, before, side, side).contiguous(memory_format=layout)
    weights = [p.clone() for p in (*conv.parameters(), *norm.parameters(), *norm.buffers())]
    norm.eval()
    with torch.no_grad():
        found, expected = conv_norm(x, conv, norm), norm(conv(x))
    assert found.is_contiguous(memory_format=layout)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert all(map(torch.equal, weights, (*conv.parameters(), *norm.parameters(), *norm.buffers())))


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('before, channels, size, stride, side', SHAPES[:2] + SHAPES[4:5])
def test_gradients_and_statistics_are_the_same(before, channels, size, stride, side, training):
    found = []
    for forward in (conv_norm, lambda x, conv, norm: norm(conv(x))):
        conv, norm = (m.double().train(training) for m in layers(before, channels, size, stride))
        x = torch.randn(2, before, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
        y = forward(x, conv, norm)
        y.sin().sum().backward()
        found.append([y, x.grad, conv.weight.grad, norm.weight.grad, norm.bias.grad, *norm.buffers()])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_hooks_see_both_modules():
    conv, norm = layers(8, 512, 1, 1)
    norm.eval()
    x, seen = torch.randn(2, 8, 32, 32).contiguous(memory_format=torch.channels_last), []
    for m in (conv, norm):
        m.register_forward_hook(lambda m, inputs, output: seen.append((m, output.clone())))
    with torch.no_grad():
        conv_norm(x, conv, norm)
        expected = conv(x)
    assert [m for m, _ in seen[:2]] == [conv, norm] and torch.equal(seen[0][1], expected)


def test_a_traced_network_has_the_plain_operators():
    class Block(nn.Module):

        def __init__(self):
            super().__init__()
            self.conv, self.norm = layers(8, 16, 1, 1)

        def forward(self, x):
            return conv_norm(x, self.conv, self.norm)

    traced = str(torch.jit.trace(Block().eval(), torch.randn(1, 8, 4, 4)).inlined_graph)
    assert 'aten::_convolution' in traced and 'aten::batch_norm' in traced and 'aten::linear' not in traced


def test_a_1x1_convolution_of_few_pixels_is_a_product():
    conv, _ = layers(8, 16, 1, 2)
    x = torch.randn(2, 8, 7, 7).contiguous(memory_format=torch.channels_last).requires_grad_()
    y = convolve(x, conv)
    assert 'Convolution' not in type(y.grad_fn.next_functions[0][0]).__name__ + type(y.grad_fn).__name__
    torch.testing.assert_close(y, conv(x))
