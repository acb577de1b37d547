"""Half precision, autocast, and values at the edge of what can be inverted."""
import pytest
import torch
from torch import nn

from mmrev.layers import ABN, InPlaceABN
from support.layers import filled, gradients, random


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('activation', ['leaky_relu', 'elu', 'identity'])
@pytest.mark.parametrize('training', [True, False])
def test_half_precision_gradients_are_as_good_as_those_of_batchnorm(dtype, activation, training, backward_way):
    x, dz = random(8, 4, 6, 6).to(dtype), random(8, 4, 6, 6, seed=2).to(dtype)
    exact, plain, ours = (filled(kind(4, activation=activation)).train(training) for kind in (ABN, ABN, InPlaceABN))
    exact, plain, ours = (gradients(exact.double(), x.double(), dz.double()), gradients(plain, x, dz),
                          gradients(ours, x, dz))
    assert ours['z'].dtype == ours['dx'].dtype == dtype
    assert ours['weight'].dtype == ours['running_mean'].dtype == torch.float32
    for key in ('z', 'dx', 'weight', 'bias', 'running_mean', 'running_var'):
        scale = exact[key].abs().max()
        error, allowed = ((found[key] - exact[key]).abs().max() / scale for found in (ours, plain))
        # The output's rounding is in the recovered values, beside a scale of down to 0.1 here.
        assert error <= 3 * allowed + 2 * torch.finfo(dtype).eps, (key, error, allowed)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_keeps_parameters_and_statistics_in_float32(dtype):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), InPlaceABN(4), nn.Conv2d(4, 2, 3), InPlaceABN(2, activation='elu'))
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    with torch.autocast('cpu', dtype):
        z = network(x)
        z.float().square().sum().backward()  # within autocast too
    assert z.dtype == dtype
    for t in (x.grad, *(p.grad for p in network.parameters()), network[1].running_mean):
        assert t.dtype == torch.float32 and t.isfinite().all() and t.abs().max() > 0


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize('activation', ['leaky_relu', 'elu', 'identity'])
@pytest.mark.parametrize('training', [True, False])
def test_weights_next_to_nothing_stay_finite(dtype, activation, training):
    layer = InPlaceABN(8, activation=activation).train(training)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0, -0., 1e-5, -1e-5, 1e-8, -1e-30, 1e-38, 1]))
        layer.bias.copy_(torch.linspace(-2, 2, 8))
    found = gradients(layer, random(4, 8, 5, 5).to(dtype), random(4, 8, 5, 5, seed=2).to(dtype))
    for key, value in found.items():
        assert value.isfinite().all(), key


def test_weights_next_to_nothing_keep_exact_gradients_in_float64():
    for training in (True, False):
        ours, reference = (kind(4).double().train(training) for kind in (InPlaceABN, ABN))
        for layer in (ours, reference):
            nn.init.constant_(layer.weight, 1e-9)
        x, dz = random(4, 4, 5), random(4, 4, 5, seed=2)
        ours, expected = gradients(ours, x, dz), gradients(reference, x, dz)
        for key in expected:
            torch.testing.assert_close(ours[key], expected[key], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('dtype, rtol', [(torch.float32, 1e-3), (torch.float16, 5e-2), (torch.bfloat16, 2e-1)])
@pytest.mark.parametrize('training', [True, False])
def test_a_saturated_elu_stays_finite_and_spoils_no_other_gradient(dtype, rtol, training):
    x, dz = random(64, 4).to(dtype), random(64, 4, seed=2).to(dtype)
    x[0], x[1], x[2] = -100, -30, -15  # act(y) rounds to -alpha
    ours, exact = (kind(4, activation='elu').train(training) for kind in (InPlaceABN, ABN))
    for layer in (ours, exact):
        nn.init.constant_(layer.weight, 3)
    ours, exact = gradients(ours, x, dz), gradients(exact.double(), x.double(), dz.double())
    assert ours['dx'].isfinite().all()
    for found in (ours, exact):
        found['others'] = found['dx'][3:]
    for key in ('others', 'weight', 'bias'):
        assert (ours[key] - exact[key]).abs().max() <= rtol * exact[key].abs().max(), key


def test_small_slopes_are_exact_while_the_type_can_hold_them():
    for slope in (1e-2, 1e-6, 1e-30):
        ours, reference = (filled(kind(4, activation_param=slope)).double() for kind in (InPlaceABN, ABN))
        found, expected = (gradients(layer, random(5, 4), random(5, 4, seed=2)) for layer in (ours, reference))
        for key in expected:
            torch.testing.assert_close(found[key], expected[key], rtol=1e-9, atol=1e-12)
    layer = InPlaceABN(4, activation_param=1e-6)
    assert layer(torch.randn(3, 4)).isfinite().all()
    with pytest.raises(ValueError, match='cannot be inverted in torch.float16; the slope must be at least 6.1e-05'):
        layer(torch.randn(3, 4).half())


def test_a_model_in_half_precision_throughout_infers():
    for dtype in (torch.float16, torch.bfloat16):
        layer = InPlaceABN(4).eval().to(dtype)
        x = torch.randn(2, 4, 3, 3, dtype=dtype)
        torch.testing.assert_close(layer(x).float(), torch.nn.functional.leaky_relu(x.float()), rtol=2e-2, atol=1e-2)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('activation, training', [('leaky_relu', True), ('leaky_relu', False), ('relu', False)])
@pytest.mark.parametrize('weight', [0., 1e-3])
def test_half_precision_gradients_of_a_block_that_starts_as_its_shortcut(
        dtype, activation, training, weight, backward_way):
    """The hosts' ``zero_init_residual``: nothing of ``y`` is left in the sum, so it is taken from the input."""
    x, dz, shortcut = (random(8, 4, 6, 6, seed=i).to(dtype) for i in (1, 2, 3))
    found = []
    for kind, kind_dtype in ((ABN, torch.float64), (ABN, dtype), (InPlaceABN, dtype)):
        layer = filled(kind(4, activation=activation)).train(training)
        nn.init.constant_(layer.weight, weight)
        if kind_dtype == torch.float64:
            layer.double()
        given = x.to(kind_dtype).clone().requires_grad_()
        layer(given, residual=shortcut.to(kind_dtype) * 4).backward(dz.to(kind_dtype))
        found.append((given.grad, layer.weight.grad, layer.bias.grad))
    for exact, plain, ours in zip(*found):
        allowed, error = ((t - exact).norm() / exact.norm() for t in (plain, ours))
        assert error <= 1.5 * allowed + torch.finfo(dtype).eps


@pytest.mark.parametrize('training', [True, False])
def test_weights_of_zero_in_float16_have_finite_gradients(training):
    layer = InPlaceABN(4).half().train(training)
    nn.init.zeros_(layer.weight)
    x = random(4, 4, 8, 8).half().requires_grad_()
    layer(x).backward(random(4, 4, 8, 8, seed=2).half())
    assert all(t.isfinite().all() for t in (x.grad, layer.weight.grad, layer.bias.grad))
