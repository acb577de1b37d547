"""Plain batch norm and activation behind the interface of the activated norms."""
import pytest
import torch
import torch.nn.functional as F
from mmengine.model import convert_sync_batchnorm
from torch import nn

from mmrev.layers import ABN, BatchNormAct


def norm(**kwargs) -> BatchNormAct:
    layer = BatchNormAct(4, **kwargs).double()
    torch.manual_seed(0)
    for t in (layer.norm.weight, layer.norm.bias, layer.norm.running_mean):
        nn.init.normal_(t)
    return layer


def images(seed=0):
    return torch.randn(2, 4, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize('training', [True, False])
def test_it_is_batch_norm_and_activation_with_weights_of_either_sign(training):
    layer, x, shortcut = norm(activation='elu').train(training), images(), images(1)
    y = F.batch_norm(x, layer.norm.running_mean.clone(), layer.norm.running_var.clone(), layer.norm.weight,
                     layer.norm.bias, training)
    assert (layer.norm.weight < 0).any()
    torch.testing.assert_close(layer(x), F.elu(y))
    torch.testing.assert_close(layer(x, residual=shortcut), F.elu(y + shortcut))


def test_gradients_are_those_of_autograd():
    layer = norm()
    x, shortcut = images().requires_grad_(), images(1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b, w: torch.func.functional_call(
        layer, {'norm.weight': w}, (a, ), {'residual': b}), (x, shortcut, layer.norm.weight))


def test_a_state_dict_of_an_activated_norm_loads():
    layer, other = norm(), ABN(4)
    nn.init.normal_(other.weight)
    layer.load_state_dict(other.state_dict())
    assert torch.equal(layer.norm.weight, other.weight.double()) and set(layer.state_dict()) == {
        f'norm.{name}' for name in other.state_dict()}
    layer.load_state_dict(norm().state_dict())


def test_synchronising_keeps_the_activation():
    layer = convert_sync_batchnorm(norm())
    assert isinstance(layer.norm, nn.SyncBatchNorm) and layer.activation == 'leaky_relu'


def test_an_unknown_activation_is_refused():
    with pytest.raises(ValueError, match='`activation` must be one of'):
        BatchNormAct(4, activation='gelu')
