"""What hooks on weights change within one backward, between the nodes of two couplings."""
import pytest
import torch
from torch import nn

from mmrev.reversible import ReversibilityError
from test_reversible.test_side_effects import assert_equal, build, inputs, step


def backward_with_a_change(module, change):
    """Gradients of a training step in which ``change(module)`` runs once the last coupling's gradients are known."""
    step(module)  # functions are examined before
    changed = []
    weight = module.couplings[-1].f[0].weight
    weight.register_post_accumulate_grad_hook(lambda p: changed or changed.append(change(module)))
    found = step(module)
    assert changed
    return found


def write_in_place(module):
    with torch.no_grad():
        module.couplings[0].f[0].weight.mul_(2)


def replace_data(module):
    module.couplings[0].g[0].bias.data = torch.ones_like(module.couplings[0].g[0].bias)


@pytest.mark.parametrize('keep', ['undo', 'graph'])
@pytest.mark.parametrize('change, named', [(write_in_place, 'weight'), (replace_data, 'bias')])
def test_a_weight_of_an_earlier_coupling_that_is_written_is_refused(change, named, keep):
    with pytest.raises(ReversibilityError, match=f'the parameter `{named}` of step [01] .*couplings.0.*modified'):
        backward_with_a_change(build(depth=3, keep=keep), change)


def write_its_own(module):
    with torch.no_grad():
        module.couplings[-1].g[0].weight.mul_(2)


def replace_a_parameter(module):
    module.couplings[0].f[0].weight = nn.Parameter(torch.zeros_like(module.couplings[0].f[0].weight))


def remove_a_parameter(module):
    module.couplings[0].f[0].bias = None


def evaluate(module):
    for m in module.modules():
        m.training = False


def with_dropout():
    return nn.Sequential(nn.Linear(4, 4), nn.Dropout(.5), nn.Tanh())


@pytest.mark.parametrize('change', [write_its_own, replace_a_parameter, remove_a_parameter, evaluate])
def test_what_plain_autograd_does_not_suffer_from_does_not_matter(change):
    found = []
    for reversible in (True, False):
        module = build(with_dropout, depth=3, reversible=reversible)
        before = dict(module.named_parameters())
        torch.manual_seed(7)
        backward_with_a_change(module, change)
        found.append([p.grad for p in before.values()])
    assert_equal(*found)


def test_a_parameter_that_is_registered_later_is_trained():

    class Scaled(nn.Linear):

        def forward(self, x):
            return super().forward(x).tanh() * getattr(self, 'scale', 1)

    found = []
    for reversible in (True, False):
        module = build(lambda: Scaled(4, 4), reversible=reversible)
        step(module)
        layer = module.couplings[0].f
        layer.register_parameter('scale', nn.Parameter(torch.full((4, ), .5, dtype=torch.float64)))
        found.append(step(module, *inputs()))
        assert layer.scale.grad is not None
    assert_equal(*found)
