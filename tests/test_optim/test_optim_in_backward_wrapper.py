"""Weights updated within backward: the same as after it, with hardly a gradient alive."""
import copy

import pytest
import torch
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from torch import nn
from torch.utils.checkpoint import checkpoint

import mmrev  # noqa: F401  registers the scope
from mmrev.problems import ProblemError
from mmrev.reversible import ReversibleSequence, TwoStreamCoupling
from mmrev.testing import PeakMemory

WIDTH = 16
OPTIMIZERS = [dict(type='SGD', lr=.05, momentum=.9, weight_decay=.01), dict(type='AdamW', lr=.01, weight_decay=.1)]
NORM_DECAY = dict(paramwise_cfg=dict(norm_decay_mult=0.))  # so that each weight has a group of its own


class Network(nn.Module):
    """Layers with a norm, plain or reversible, between two that share their weight."""

    def __init__(self, kind, width=WIDTH, depth=6):
        super().__init__()
        self.shared = nn.Linear(width, width)
        self.frozen = nn.Linear(width, width).requires_grad_(False)

        def f():
            return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())

        if kind == 'plain':
            self.body = nn.Sequential(*[f() for _ in range(depth)])
        else:
            self.body = ReversibleSequence([TwoStreamCoupling(f(), f()) for _ in range(depth // 2)])
        self.kind = kind

    def forward(self, x):
        x = self.frozen(self.shared(x))
        x = self.body(x) if self.kind == 'plain' else sum(self.body(x, 2 * x))
        return self.shared(x)


def wrapper_for(model, name, optimizer, **options):
    return build_optim_wrapper(model, copy.deepcopy(dict(type=name, optimizer=optimizer, **options)))


def train(model, wrapper, steps, seed=0):
    torch.manual_seed(seed)
    for _ in range(steps):
        with wrapper.optim_context(model):
            loss = model(torch.randn(4, WIDTH, dtype=torch.float64)).square().mean()
        wrapper.update_params(loss)


@pytest.mark.parametrize('options', [{}, NORM_DECAY, dict(clip_grad=dict(type='value', clip_value=1e-3))],
                         ids=['one group', 'groups', 'clipped by value'])
@pytest.mark.parametrize('optimizer', OPTIMIZERS, ids=lambda optimizer: optimizer['type'])
@pytest.mark.parametrize('kind', ['plain', 'reversible'])
def test_twenty_steps_give_the_weights_and_states_of_the_ordinary_wrapper(kind, optimizer, options):
    torch.manual_seed(0)
    models = [Network(kind).double()]
    models.append(copy.deepcopy(models[0]))
    wrappers = [wrapper_for(model, name, optimizer, **options)
                for model, name in zip(models, ('OptimWrapper', 'mmrev.OptimInBackwardWrapper'))]
    for model, wrapper in zip(models, wrappers):
        train(model, wrapper, 20)
    for (name, ours), plain in zip(models[1].named_parameters(), models[0].parameters()):
        assert torch.equal(ours, plain), name
        assert ours.grad is None and not ours._post_accumulate_grad_hooks
    states = [wrapper.state_dict()['state'] for wrapper in wrappers]
    assert states[0].keys() == states[1].keys() and len(states[0]) > 10
    for key, state in states[0].items():
        assert all(torch.equal(torch.as_tensor(state[name]), torch.as_tensor(states[1][key][name])) for name in state)


@pytest.mark.parametrize('first, then', [('OptimWrapper', 'mmrev.OptimInBackwardWrapper'),
                                         ('mmrev.OptimInBackwardWrapper', 'OptimWrapper')])
def test_a_run_goes_on_from_the_checkpoint_of_the_other_wrapper(first, then, tmp_path):
    torch.manual_seed(0)
    start = Network('plain').double()
    whole = copy.deepcopy(start)
    wrapper = wrapper_for(whole, 'OptimWrapper', OPTIMIZERS[1])
    train(whole, wrapper, 5, seed=1)
    train(whole, wrapper, 5, seed=2)
    wrapper = wrapper_for(start, first, OPTIMIZERS[1])
    train(start, wrapper, 5, seed=1)
    torch.save(dict(state_dict=start.state_dict(), optimizer=wrapper.state_dict()), tmp_path / 'last.pth')
    saved = torch.load(tmp_path / 'last.pth', weights_only=True)
    resumed = Network('plain').double()
    resumed.load_state_dict(saved['state_dict'])
    wrapper = wrapper_for(resumed, then, OPTIMIZERS[1])
    wrapper.load_state_dict(saved['optimizer'])
    train(resumed, wrapper, 5, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), whole.parameters()))


class GradientBytes:
    """The most bytes of gradients that exist after any of them was accumulated."""

    def __init__(self, model):
        self.peak = 0
        self._weights = [p for p in model.parameters() if p.requires_grad]
        for weight in self._weights:
            weight.register_post_accumulate_grad_hook(self._look)

    def _look(self, _):
        self.peak = max(self.peak, sum(p.grad.nbytes for p in self._weights if p.grad is not None))


@pytest.mark.parametrize('kind', ['plain', 'reversible'])
def test_no_more_gradients_exist_than_those_of_one_weight(kind):
    model = Network(kind)
    largest = max(p.nbytes for p in model.parameters())
    gradients = GradientBytes(model)
    wrapper = wrapper_for(model, 'mmrev.OptimInBackwardWrapper', OPTIMIZERS[0])
    wrapper.update_params(model(torch.randn(4, WIDTH)).sum())
    assert 0 < gradients.peak <= largest


@pytest.mark.parametrize('kind, weights_of_a_node', [('plain', 1), ('reversible', 2)])
def test_the_peak_of_a_step_does_not_grow_with_the_gradients_of_the_model(kind, weights_of_a_node):
    """Activations are small here: what is alive beside weights and the optimizer's state is gradients."""
    width, depth, peaks = 256, 8, []
    largest = 4 * width * width
    for name in ('OptimWrapper', 'mmrev.OptimInBackwardWrapper'):
        torch.manual_seed(0)
        model = Network(kind, width, depth)
        wrapper = wrapper_for(model, name, dict(type='SGD', lr=.1))
        with PeakMemory() as memory:
            wrapper.update_params(model(torch.randn(1, width)).sum())
        peaks.append(memory.peak)
    assert peaks[0] > (depth + 1) * largest  # every layer's
    # of a node, of the shared layer (which waits for its second use), and what the step of SGD makes
    assert peaks[1] < (weights_of_a_node + 2) * largest + .2 * largest


@pytest.mark.parametrize('options, words', [
    (dict(accumulative_counts=2), 'accumulat'), (dict(clip_grad=dict(max_norm=1.)), 'norm of all gradients')])
def test_what_needs_all_gradients_is_refused(options, words):
    with pytest.raises(ProblemError, match=words) as error:
        wrapper_for(Network('plain'), 'mmrev.OptimInBackwardWrapper', OPTIMIZERS[0], **options)
    assert len(str(error.value).splitlines()) == 2


def test_an_optimizer_that_reads_the_norm_of_all_gradients_is_refused():
    with pytest.raises(ProblemError, match='Lamb'):
        wrapper_for(Network('plain'), 'mmrev.OptimInBackwardWrapper', dict(type='mmpretrain.Lamb', lr=.1))


def test_a_model_within_ddp_is_refused(tmp_path):
    torch.distributed.init_process_group('gloo', store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        model = MMDistributedDataParallel(Network('plain'))
        wrapper = wrapper_for(model, 'mmrev.OptimInBackwardWrapper', OPTIMIZERS[0])
        with pytest.raises(ProblemError, match='MMDistributedDataParallel'), wrapper.optim_context(model):
            pass
    finally:
        torch.distributed.destroy_process_group()


def test_a_weight_whose_gradient_arrives_in_two_parts_is_refused():
    layer = nn.Linear(WIDTH, WIDTH)
    wrapper = wrapper_for(layer, 'mmrev.OptimInBackwardWrapper', OPTIMIZERS[0])
    x = torch.randn(2, WIDTH, requires_grad=True)
    for _ in range(2):
        x = checkpoint(layer, x, use_reentrant=True)
    with pytest.raises(ProblemError, match='two parts'):
        wrapper.update_params(x.sum())


def test_a_weight_that_an_earlier_layer_reads_as_a_constant_is_refused():
    layer = nn.Linear(WIDTH, WIDTH)
    wrapper = wrapper_for(layer, 'mmrev.OptimInBackwardWrapper', OPTIMIZERS[0])
    x = torch.randn(2, WIDTH, requires_grad=True)
    with pytest.raises(ProblemError, match='read elsewhere') as error:
        wrapper.update_params(layer(x @ layer.weight.detach()).square().sum())
    assert len(str(error.value).splitlines()) == 2


def test_an_error_of_the_network_itself_is_not_hidden():
    layer = nn.Linear(WIDTH, WIDTH)
    wrapper = wrapper_for(layer, 'mmrev.OptimInBackwardWrapper', OPTIMIZERS[0])
    x = layer(torch.randn(2, WIDTH))
    y = x.exp()
    y.add_(1)
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        wrapper.update_params(y.sum())


def test_a_second_backward_before_the_step_is_refused():
    layer = nn.Linear(WIDTH, WIDTH)
    wrapper = wrapper_for(layer, 'mmrev.OptimInBackwardWrapper', OPTIMIZERS[0])
    for _ in range(2):
        wrapper.update_params(layer(torch.randn(2, WIDTH)).sum())
    wrapper.backward(layer(torch.randn(2, WIDTH)).sum())
    with pytest.raises(ProblemError, match='two backward passes'):
        wrapper.backward(layer(torch.randn(2, WIDTH)).sum())
