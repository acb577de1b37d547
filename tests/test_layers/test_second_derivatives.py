"""Fused forms of linear layers are differentiated twice as their plain forms, under autocast as well."""
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmrev.layers.fused.gelu_linear import gelu_linear
from mmrev.layers.fused.pooled_linear import pooled_linear


def plain_gelu_linear(x, linear):
    return linear(F.gelu(x))


def plain_pooled_linear(x, linear):
    pooled = F.max_pool2d(F.gelu(x).permute(0, 3, 1, 2), 3, 1, 1)
    return linear(F.gelu(pooled).permute(0, 2, 3, 1))


FORMS = [(gelu_linear, plain_gelu_linear), (pooled_linear, plain_pooled_linear)]


def second_gradients(f, linear, x, low):
    x = x.clone().requires_grad_()
    with torch.autocast('cpu', torch.bfloat16, enabled=low):
        out = f(x.bfloat16() if low else x, linear)
    first, = torch.autograd.grad(out.float().sin().sum() if low else out.sin().sum(), x, create_graph=True)
    return torch.autograd.grad(first.pow(2).sum(), [x, *linear.parameters()])


@pytest.mark.parametrize('forms', FORMS, ids=['gelu_linear', 'pooled_linear'])
@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('low', [False, True], ids=['float64', 'autocast'])
def test_as_the_plain_form(forms, bias, low):
    torch.manual_seed(0)
    dtype = torch.float32 if low else torch.float64
    linear, x = nn.Linear(6, 3, bias, dtype=dtype), torch.randn(2, 4, 5, 6, dtype=dtype)
    tolerance = dict(rtol=0.1, atol=0.02) if low else dict(rtol=1e-9, atol=1e-11)
    found, expected = (second_gradients(f, linear, x, low) for f in forms)
    torch.testing.assert_close(found, expected, **tolerance)
    assert all(g.abs().max() > 0.1 for g in expected)
