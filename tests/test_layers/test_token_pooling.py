"""Values, gradients and memory of token pooling, ``fc2(gelu(max(gelu(fc1(x)))))``, and the MLP without max."""
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmrev.layers import MLP, TokenPooling
from mmrev.testing import PeakMemory


def mlp(dims):
    return MLP(dims, 3 * dims)


both_kinds = pytest.mark.parametrize('kind', [TokenPooling, mlp])


def plain(layer, x):
    x = F.gelu(layer.fc1(x))
    if isinstance(layer, TokenPooling):
        x = F.gelu(F.max_pool2d(x.permute(0, 3, 1, 2), 3, 1, 1).permute(0, 2, 3, 1))
    return layer.fc2(x)


def tokens(**kwargs):
    return torch.randn(2, 5, 7, 6, generator=torch.Generator().manual_seed(0), **kwargs)  # (B, H, W, C)


@both_kinds
def test_values_and_gradients(kind):
    layer, x = kind(6).double(), tokens(dtype=torch.float64, requires_grad=True)
    found = [torch.autograd.grad(f(x).sin().sum(), [x, *layer.parameters()])
             for f in (layer, lambda x: plain(layer, x))]
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)
    before = x.detach().clone()
    with torch.no_grad():
        torch.testing.assert_close(layer(x), plain(layer, x))
    assert torch.equal(x, before)


@both_kinds
@pytest.mark.parametrize('trained', ['fc1', 'fc2'])
def test_a_part_alone_may_be_trained(kind, trained):
    layer, x = kind(6), tokens()
    layer.requires_grad_(False)
    weights = list(getattr(layer, trained).requires_grad_().parameters())
    found = [torch.autograd.grad(f(x).sin().sum(), weights) for f in (layer, lambda x: plain(layer, x))]
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_autocast():
    layer, x = TokenPooling(6), tokens(requires_grad=True)
    with torch.autocast('cpu', torch.bfloat16):
        y = layer(x)
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16 and x.grad.dtype == layer.fc2.weight.grad.dtype == torch.float32
    torch.testing.assert_close(y.float(), plain(layer, x), rtol=0.05, atol=0.05)


def test_the_output_of_the_first_layer_is_all_that_is_kept():
    with torch.device('meta'):
        layer, x = TokenPooling(64), torch.empty(2, 14, 14, 64, requires_grad=True)
        with PeakMemory() as memory:
            y = layer(x)
            assert memory.current == y.numel() * 4 * (3 + 1)


class Doubled(nn.Linear):
    """An adapter, for one."""

    def forward(self, x):
        return 2 * super().forward(x)


@both_kinds
def test_what_takes_the_place_of_a_layer_or_watches_it_is_asked_in_training_too(kind):
    layer, x, seen = kind(6), tokens(), []
    doubled = Doubled(18, 6)
    doubled.load_state_dict(layer.fc2.state_dict())
    expected, layer.fc2 = layer(x), doubled
    layer.fc1.register_forward_hook(lambda m, i, o: seen.append(o))
    with torch.no_grad():
        torch.testing.assert_close(layer(x), 2 * expected)
    torch.testing.assert_close(seen.pop(), layer.fc1(x))
    torch.testing.assert_close(layer(x.requires_grad_()), 2 * expected)


@both_kinds
def test_a_hook_on_all_modules_sees_both_layers(kind):
    layer, x, seen = kind(6), tokens(), {}
    handle = nn.modules.module.register_module_forward_hook(lambda m, i, o: seen.update({m: o.clone()}))
    try:
        layer(x.requires_grad_())
    finally:
        handle.remove()
    torch.testing.assert_close(seen[layer.fc1], layer.fc1(x))
    torch.testing.assert_close(seen[layer.fc2], plain(layer, x))
