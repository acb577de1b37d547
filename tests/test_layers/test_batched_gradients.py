"""Fused forms propagate a batch of gradients (`is_grads_batched=True`, `vmap`), or refuse it in words of our own."""
import pytest
import torch
from torch import nn

from mmrev.layers import max_pool3x3, norm_act
from mmrev.layers.fused.gelu_linear import gelu_linear
from mmrev.layers.fused.pooled_linear import pooled_linear
from mmrev.layers.inplace_abn import InPlaceABN

NORM, LINEAR = nn.BatchNorm2d(4).double(), nn.Linear(4, 3).double()
FORMS = {
    'norm_act': lambda x: norm_act(x, NORM, nn.SiLU()),
    'norm_act, running statistics': lambda x: norm_act(x, NORM.eval(), nn.Hardswish()),
    'max_pool3x3': max_pool3x3,
    'gelu_linear': lambda x: gelu_linear(x, LINEAR),
    'pooled_linear': lambda x: pooled_linear(x, LINEAR),
}


def batched(y, inputs, gradients):
    return torch.autograd.grad(y, inputs, gradients, retain_graph=True, is_grads_batched=True)


def mapped(y, inputs, gradients):
    return torch.func.vmap(lambda g: torch.autograd.grad(y, inputs, g, retain_graph=True))(gradients)


@pytest.mark.parametrize('propagate', [batched, mapped])
@pytest.mark.parametrize('form', FORMS)
def test_as_one_by_one(form, propagate):
    torch.manual_seed(0)
    NORM.train()
    x = torch.randn(2, 4, 4, 4, dtype=torch.float64, requires_grad=True)
    y = FORMS[form](x)
    inputs = [x] + [p for m in (NORM, LINEAR) for p in m.parameters()
                    if torch.autograd.grad(y.sum(), p, retain_graph=True, allow_unused=True)[0] is not None]
    gradients = torch.randn(3, *y.shape, dtype=y.dtype)
    found = propagate(y, inputs, gradients)
    expected = [torch.autograd.grad(y, inputs, g, retain_graph=True) for g in gradients]
    torch.testing.assert_close(found, tuple(map(torch.stack, zip(*expected))), rtol=1e-9, atol=1e-11)
    assert len(inputs) == (1 if form == 'max_pool3x3' else 3)


@pytest.mark.parametrize('propagate', [batched, mapped])
def test_inplace_abn_refuses(propagate):
    x = torch.randn(2, 4, requires_grad=True)
    y = InPlaceABN(4)(x)
    with pytest.raises(RuntimeError, match=r'InPlaceABN\(4\) cannot propagate a batch of gradients'):
        propagate(y, [x], torch.ones(3, *y.shape))
