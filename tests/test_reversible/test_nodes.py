"""Small couplings share a node of autograd's graph."""
import copy

import pytest
import torch

from mmrev.reversible import plan
from mmrev.testing import assert_same_gradients, set_reversible
from support.networks import NETWORKS, inputs
from test_reversible.test_gradients import assert_equal, build, gradients


@pytest.fixture(params=[2, 3, 99])
def shared(request, monkeypatch):
    """So many couplings of the largest size share a node."""

    def share(module):
        sizes = [sum(p.numel() * p.element_size() for p in coupling.parameters()) for coupling in module.couplings]
        monkeypatch.setattr(plan, 'NODE_BYTES', request.param * max(sizes))
        return module

    share.number = request.param
    return share


def num_nodes(module, streams):
    """Nodes of a sequence in the graph of its first output; the last one has no steps."""
    outputs = module(*streams)  # they keep the nodes alive
    node, count = outputs[0].grad_fn, 0
    while node is not None and node.name() == 'ReversibleNodeBackward':
        count += 1
        node = node.next_functions[0][0]
    return count - 1


def test_couplings_share_a_node_up_to_the_limit(shared):
    module = shared(build('two_stream', depth=6))
    assert num_nodes(module, inputs('two_stream')) == -(-6 // shared.number)


def test_a_coupling_larger_than_the_limit_has_its_own():
    assert num_nodes(build('two_stream', depth=4), inputs('two_stream')) == 4


def test_a_large_coupling_does_not_join_small_ones(monkeypatch):
    module = build('two_stream', depth=6)
    monkeypatch.setattr(plan, 'NODE_BYTES', sum(p.numel() * p.element_size() for p in module.parameters()))
    module.couplings[2].f.large = torch.nn.Parameter(torch.zeros(plan.NODE_BYTES // 8, dtype=torch.float64))
    assert num_nodes(module, inputs('two_stream')) == 3


@pytest.mark.parametrize('keep', [None, ['undo', 'graph', 'state', 'undo', 'graph', 'undo', 'undo', 'state']])
@pytest.mark.parametrize('requires_grad', [True, False])
@pytest.mark.parametrize('name', NETWORKS)
def test_gradients_equal_plain_autograd(shared, name, requires_grad, keep):
    module = shared(build(name))
    if keep:
        module.keep = lambda step, entries=iter(keep * 20): next(entries)
    assert_same_gradients(module, *inputs(name, requires_grad))


@pytest.mark.parametrize('frozen', [['couplings.0.f'], ['couplings.0', 'couplings.1.f'], ['couplings.1']])
def test_frozen_functions_within_a_node_get_no_gradient(shared, frozen):
    module = shared(build('two_stream', depth=4))
    for name in frozen:
        module.get_submodule(name).requires_grad_(False)
    plain = set_reversible(copy.deepcopy(module), False)
    assert_equal(*(gradients(m, *inputs('two_stream', requires_grad=False)) for m in (module, plain)))


def test_a_weight_of_two_couplings_of_a_node_gets_the_sum(shared):
    module = shared(build('two_stream', depth=4))
    module.couplings[1].f = module.couplings[0].f
    assert_same_gradients(module, *inputs('two_stream'))


def test_hooks_on_weights_run_once(shared):
    module = shared(build('two_stream', depth=4))
    plain = set_reversible(copy.deepcopy(module), False)
    accumulated = []
    for m in (module, plain):
        for p in m.parameters():
            p.register_hook(lambda g: 10 * g)
            p.register_post_accumulate_grad_hook(lambda p: accumulated.append(id(p)))
    assert_equal(*(gradients(m, *inputs('two_stream')) for m in (module, plain)))
    assert len(accumulated) == len(set(accumulated)) == 2 * len(list(module.parameters()))


def test_gradients_of_late_weights_alone(shared):
    module = shared(build('two_stream', depth=4))
    plain = set_reversible(copy.deepcopy(module), False)
    found = []
    for m in (module, plain):
        weights = list(m.couplings[-1].parameters())
        torch.manual_seed(11)
        loss = sum((x * x).sum() for x in m(*inputs('two_stream')))
        found.append(dict(enumerate(torch.autograd.grad(loss, weights))))
    assert_equal(*found)
