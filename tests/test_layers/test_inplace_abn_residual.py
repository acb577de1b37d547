"""A norm that is given a shortcut computes act(norm(x) + shortcut)."""
import pytest
import torch
from torch import nn

from mmrev.layers import ABN, InPlaceABN
from mmrev.testing import PeakMemory

ACTIVATIONS = ['leaky_relu', 'elu', 'identity', 'relu']


def random(*shape, seed=1):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def make(kind, activation, frozen):
    layer = kind(4, activation=activation, dtype=torch.float64)
    with torch.no_grad():
        for i, t in enumerate((layer.weight, layer.bias, layer.running_mean)):
            t.copy_(random(4, seed=i))
        layer.running_var.copy_(random(4).abs() + 0.5)
    return layer.train(not frozen)


def gradients(layer, x, shortcut, dz, needs):
    x, shortcut = x.clone().requires_grad_('x' in needs), shortcut.clone().requires_grad_('shortcut' in needs)
    layer.requires_grad_('parameters' in needs)
    z = layer(x, residual=shortcut)
    z.backward(dz)
    return {'z': z.detach(), 'dx': x.grad, 'dshortcut': shortcut.grad, 'dweight': layer.weight.grad,
            'dbias': layer.bias.grad}


@pytest.mark.usefixtures('backward_way')
@pytest.mark.parametrize('needs', [('x', 'shortcut', 'parameters'), ('x', ), ('shortcut', ), ('parameters', )], ids=str)
@pytest.mark.parametrize(('activation', 'frozen'), [(a, f) for a in ACTIVATIONS for f in (False, True)
                                                    if f or a != 'relu'])
def test_equals_the_reference(activation, frozen, needs):
    x, shortcut, dz = random(3, 4, 5, 6), random(3, 4, 5, 6, seed=2), random(3, 4, 5, 6, seed=3)
    expected = gradients(make(ABN, activation, frozen), x, shortcut, dz, needs)
    ours = gradients(make(InPlaceABN, activation, frozen), x, shortcut, dz, needs)
    for name, value in expected.items():
        assert (value is None) == (ours[name] is None), name
        if value is not None:
            torch.testing.assert_close(ours[name], value, rtol=1e-9, atol=1e-11, msg=lambda m: f'{name}: {m}')


def test_a_reference_without_our_code():
    layer, x, shortcut = make(ABN, 'leaky_relu', False), random(3, 4, 5, 6), random(3, 4, 5, 6, seed=2)
    bn = nn.BatchNorm2d(4, dtype=torch.float64)
    with torch.no_grad():
        bn.weight.copy_(layer.weight.abs() + layer.eps)
        bn.bias.copy_(layer.bias)
    torch.testing.assert_close(layer(x, shortcut), nn.functional.leaky_relu(bn(x) + shortcut, 0.01))


def test_keeps_output_and_shortcut_alone():
    layer, x, shortcut = make(InPlaceABN, 'leaky_relu', False), random(8, 4, 16, 16), random(8, 4, 16, 16, seed=2)
    conv = nn.Conv2d(4, 4, 1, dtype=x.dtype)
    with PeakMemory() as memory:
        z = layer(conv(x), residual=shortcut)
        assert memory.current <= 1.05 * z.numel() * z.element_size()


def test_a_shortcut_changed_before_backward_is_named():
    layer, shortcut = make(InPlaceABN, 'leaky_relu', False), random(3, 4, 5, 6)
    z = layer(random(3, 4, 5, 6).requires_grad_(), residual=shortcut)
    shortcut.add_(1)
    with pytest.raises(RuntimeError, match=r'InPlaceABN\(4\).*or the residual given to it'):
        z.sum().backward()


def test_another_shape_or_type():
    layer, x = make(InPlaceABN, 'leaky_relu', False), random(3, 4, 5, 6)
    with pytest.raises(ValueError, match="residual of its input's shape"):
        layer(x, residual=x[:, :, :1])
    layer, x = layer.float(), x.bfloat16()
    z = layer(x, residual=x.float())
    assert z.dtype == torch.float32
    torch.testing.assert_close(z, nn.functional.leaky_relu(make(ABN, 'identity', False).float()(x) + x.float(), 0.01))
