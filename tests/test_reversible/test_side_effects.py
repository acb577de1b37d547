"""What functions keep, write and draw beside their result: as under plain autograd, or refused by name."""
import gc
import weakref
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from mmrev.reversible import NewStream, ReversibilityError, ReversibleSequence, TwoStreamCoupling

WIDTH = 4


def function():
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Tanh())


def build(make=function, depth=2, seed=0, **options):
    torch.manual_seed(seed)
    return ReversibleSequence([TwoStreamCoupling(make(), make()) for _ in range(depth)], **options).double()


def inputs(requires_grad=True):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(3, WIDTH, dtype=torch.float64, generator=generator, requires_grad=requires_grad)
            for _ in range(2)]


def step(module, *streams):
    """Outputs and gradients of a training step."""
    module.zero_grad()
    out = module(*(streams or inputs()))
    sum((x * x).sum() for x in out).backward()
    return [x.detach() for x in out], [p.grad for p in module.parameters()]


def assert_equal(ours, plain):
    torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-12)


def test_second_derivatives_are_refused_where_the_loss_is_linear_too():
    streams = inputs()
    gradient, = torch.autograd.grad(sum(x.sum() for x in build()(*streams)), streams[:1], create_graph=True)
    with pytest.raises(ReversibilityError, match='second derivatives'):
        gradient.pow(2).sum().backward()


@pytest.mark.parametrize('keep', ['undo', 'graph'])
@pytest.mark.parametrize('wanted', ['weights', 'weights of a part', 'streams', 'layer before', 'gradients'])
def test_second_derivatives_are_refused_for_whatever_they_are_asked(keep, wanted):
    module, streams = build(keep=keep), inputs()
    before = nn.Linear(WIDTH, WIDTH).double()
    loss = sum(x.sum() for x in module(before(streams[0]), streams[1]))
    scale = torch.ones_like(loss, requires_grad=True)
    gradient, = torch.autograd.grad(loss, streams[:1], scale, create_graph=True)
    penalized = loss + gradient.pow(2).sum()
    origins = {
        'weights': list(module.parameters()),
        'weights of a part': list(module.couplings[1].g.parameters()),
        'streams': streams[1:],
        'layer before': list(before.parameters()),
        'gradients': [scale]
    }
    with pytest.raises(ReversibilityError, match='second derivatives'):
        penalized.backward(inputs=origins[wanted])


def test_second_derivatives_of_autograd_functional_are_refused():
    module, (a, b) = build(), inputs()
    with pytest.raises(ReversibilityError, match='second derivatives'):
        torch.autograd.functional.hvp(lambda x: module(x, b)[0].sin().sum(), a, torch.ones_like(a))


class Embedded(nn.Module):

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(3, WIDTH, sparse=True)

    def forward(self, x):
        return self.embedding(torch.arange(3)) + torch.zeros_like(x)


def test_sparse_gradients():
    ours, plain = (step(build(Embedded, reversible=r))[1] for r in (True, False))
    assert_equal([g.to_dense() for g in ours], [g.to_dense() for g in plain])


@pytest.mark.parametrize('grad', [True, False])
def test_values_that_a_hook_keeps_stay_as_they_were(grad):
    kept = []
    for reversible in (True, False):
        module, values = build(reversible=reversible), {}
        for i, coupling in enumerate(module.couplings):
            for name in 'fg':
                getattr(coupling, name).register_forward_hook(
                    lambda m, args, out, key=(i, name), values=values: values.update({key: args[0].detach()}))
        if grad:
            step(module)
        else:
            with torch.no_grad():
                module(*inputs())
        kept.append(values)
    assert_equal(*kept)


@pytest.mark.parametrize('what', ['source', 'output'])
@pytest.mark.parametrize('keep', ['graph', ['undo', 'undo', 'graph', 'undo']])
def test_what_a_kept_graph_gives_to_the_undo_must_not_change(what, keep):

    class Shift(nn.Linear):
        """Saves neither its input nor its output for the backward."""

        def forward(self, x):
            return x / 2 + self.bias

    module = build(depth=2, keep=keep)
    module.couplings[1].f = Shift(WIDTH, WIDTH).double()
    plain = ReversibleSequence(module.couplings, reversible=False)
    kept = []
    module.couplings[1].f.register_forward_hook(
        lambda m, args, out: kept.append((args[0] if what == 'source' else out).detach()))
    wanted = torch.autograd.grad(sum(x.sin().sum() for x in plain(*inputs())), list(module.couplings.parameters()),
                                 allow_unused=True)
    kept.clear()
    loss = sum(x.sin().sum() for x in module(*inputs()))
    for x in kept:
        x.mul_(2)
    found = partial(torch.autograd.grad, loss, list(module.couplings.parameters()), allow_unused=True)
    if keep == 'graph':  # nothing is undone
        assert_equal(found(), wanted)
    else:
        with pytest.raises(ReversibilityError, match=r'step 2 \(`couplings.1.f`, Shift\).*modified in place'):
            found()


class KeepsInput(nn.Module):

    def __init__(self):
        super().__init__()
        self.layer = function()

    def forward(self, x):
        self.input = x
        return self.layer(x)


@pytest.mark.parametrize('keep', ['undo', 'state', 'graph'])
def test_a_loss_on_a_function_s_own_input_is_refused(keep):
    module = build(KeepsInput, keep=keep)
    out = module(*inputs())
    with pytest.raises(ReversibilityError, match='leaves a tensor behind'):
        (out[0].sum() + module.couplings[1].f.input.pow(2).sum()).backward()


class Stores(nn.Module):

    def __init__(self):
        super().__init__()
        self.layer = function()

    def forward(self, x):
        self.aux = self.layer(x)
        return self.aux * 2


def test_a_step_is_examined_in_the_first_backward_that_reaches_it():
    module = build(Stores, depth=1)
    module(*inputs())[1].detach()
    module.couplings[0].g.requires_grad_(False)
    module.couplings[0].f.requires_grad_(False)
    module(*inputs(requires_grad=False))  # nothing is trained
    module.requires_grad_(True)
    with pytest.raises(ReversibilityError, match='leaves a tensor behind'):
        module(*inputs())[1].sum().backward()


class Drops(nn.Module):
    """Dropout by a generator of its own, from its second call on."""

    def __init__(self):
        super().__init__()
        self.layer, self.rate, self.generator = function(), 0., torch.Generator().manual_seed(3)

    def forward(self, x):
        if self.rate:
            x = x * torch.empty_like(x).bernoulli_(1 - self.rate, generator=self.generator)
        return self.layer(x)


def test_a_generator_that_is_replaced_or_used_late_is_replayed():
    results = []
    for reversible in (True, False):
        module = build(Drops, reversible=reversible)
        found = [step(module)]
        for seed in (4, 5):
            for m in module.modules():
                if isinstance(m, Drops):
                    m.rate, m.generator = 0.5, torch.Generator().manual_seed(seed)
            found.append(step(module))
        results.append(found)
    assert_equal(*results)


class Average(nn.Module):
    """A mean that it updates without telling autograd."""

    def __init__(self, how):
        super().__init__()
        self.layer, self.how = function(), how
        self.register_buffer('mean', torch.ones(WIDTH))

    def forward(self, x):
        mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        if self.how == 'data':
            self.mean.data.copy_(mean)
        elif self.how == 'numpy':
            self.mean.numpy()[:] = mean.numpy()
        else:
            torch._foreach_copy_([self.mean], [mean])
        return self.layer(x * self.mean.clone())


@pytest.mark.parametrize('how', ['data', 'numpy', 'foreach'])
def test_buffers_that_are_updated_without_a_version(how):
    results = []
    for reversible in (True, False):
        module = build(lambda: Average(how), reversible=reversible)
        results.append([(*step(module), [b.clone() for b in module.buffers()]) for _ in range(3)])
    assert_equal(*results)


def test_a_kept_state_that_is_changed_in_place_is_refused():
    module, streams = build(keep='state'), [x.detach() for x in inputs()]
    out = module(*streams)
    streams[1].mul_(2)
    with pytest.raises(ReversibilityError, match='stream 1, kept as it was before step 1'):
        out[0].sum().backward()


@pytest.mark.parametrize('f', [nn.Identity, nn.Dropout, lambda: nn.Unflatten(1, (WIDTH, ))])
def test_a_new_stream_that_is_a_view_of_another_in_evaluation(f):
    couplings = [NewStream(f(), 2, (0, )), TwoStreamCoupling(function(), function()), NewStream(function(), 3, (2, ))]
    module = ReversibleSequence(couplings).double().eval()
    with torch.no_grad():
        out = module(*inputs())
    assert_equal(out[2], inputs()[0].detach())


def test_frozen_steps_that_are_to_keep_their_graph():
    results = []
    for options in (dict(keep=['graph', 'graph', 'undo', 'undo']), dict(reversible=False)):
        module = build(**options)
        module.couplings[0].requires_grad_(False)
        module.couplings[1].f.requires_grad_(False)
        results.append(step(module, inputs()[0].detach(), inputs()[1]))
    assert_equal(*results)


@pytest.mark.parametrize('keep', ['undo', 'graph'])
def test_weights_that_are_cast_and_cast_back_before_the_backward_are_refused(keep):
    module = build(keep=keep)
    out = module(*inputs())
    module.float().double()
    with pytest.raises(ReversibilityError, match='`data` replaced'):
        out[0].sum().backward()


def test_a_function_that_changes_its_own_weight_is_refused():

    class Bounded(nn.Module):

        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(3, WIDTH, max_norm=0.1)

        def forward(self, x):
            return self.embedding(torch.arange(3)) + torch.zeros_like(x)

    with pytest.raises(ReversibilityError, match='changes its parameter `weight` itself'):
        build(Bounded)(*inputs())


def test_cached_parametrizations_are_refused():
    module = build(lambda: parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH)))
    with parametrize.cached(), pytest.raises(ReversibilityError, match='parametrize.cached'):
        module(*inputs())


def test_a_partial_backward_and_a_deleted_network_leave_nothing_to_the_cycle_collector():
    gc.collect()
    gc.disable()
    try:
        module = build()
        out = module(*inputs())
        watched = [weakref.ref(x) for x in out]
        torch.autograd.grad(out[0].sum(), [module.couplings[1].f[0].weight])
        weight = weakref.ref(module.couplings[0].f[0].weight)
        del out, module
        assert [x() for x in watched] == [None] * 2 and weight() is None
    finally:
        gc.enable()


def test_scripted_functions_are_refused():
    with pytest.raises(ReversibilityError, match='must be a Python module'):
        ReversibleSequence([NewStream(torch.jit.script(nn.Tanh()), 2, (0, ))])(*inputs())


@pytest.mark.parametrize('keep, error', [(5, TypeError), ('grahp', ValueError), (['undo', None], ValueError)])
def test_a_policy_that_is_none_is_refused_by_the_constructor_and_when_set_later(keep, error):
    with pytest.raises(error, match='`keep` must be'):
        build(keep=keep)
    module = build()
    module.keep = keep
    with pytest.raises(error, match='`keep` must be'):
        module(*inputs())


class ReturnsWeight(nn.Module):

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 6))

    def forward(self, x):
        return self.weight.expand(x.shape)


class Energy(nn.Module):
    """The gradient of a scalar, itself differentiable."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x):
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            return torch.autograd.grad(self.linear(x).sin().sum(), x, create_graph=True)[0]


@pytest.mark.parametrize('function', [ReturnsWeight, Energy])
@pytest.mark.parametrize('keep', ['undo', 'graph'])
def test_a_function_may_return_its_weight_or_enable_gradients(function, keep):
    torch.manual_seed(0)
    module = ReversibleSequence([TwoStreamCoupling(function(), nn.Linear(6, 6))], keep=keep).double()
    streams = [torch.randn(3, 6, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    tensors, found = [*streams, *module.parameters()], []
    for module.reversible in (True, True, False):
        found.append(torch.autograd.grad(sum(x.sin().sum() for x in module(*streams)), tensors))
    for ours, again, expected in zip(*found):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(again, expected, rtol=1e-12, atol=1e-12)


def test_weights_that_are_computed_from_others_get_their_gradients():
    torch.manual_seed(0)
    module = ReversibleSequence([TwoStreamCoupling(nn.Linear(6, 6), nn.Linear(6, 6))]).double()
    streams, found = [torch.randn(3, 6, dtype=torch.float64, requires_grad=True) for _ in range(2)], []
    for module.reversible in (True, False):
        weights = {name: p * 1.5 for name, p in module.named_parameters()}
        outputs = torch.func.functional_call(module, weights, tuple(streams))
        found.append(torch.autograd.grad(sum(x.sin().sum() for x in outputs), list(module.parameters())))
    for ours, expected in zip(*found):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
