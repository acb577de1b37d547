"""The gradient ladder: whatever plain autograd computes, the engine computes, in float64."""
import copy
import pickle

import pytest
import torch
from torch import nn

from mmrev.reversible import (AdditiveStep, NewStream, ReversibleSequence, StreamPart, TwoStreamCoupling,
                              check_reconstruction)
from mmrev.testing import assert_invertible, assert_same_gradients, set_reversible
from support import networks
from support.networks import NETWORKS, inputs

every_network = pytest.mark.parametrize('name', NETWORKS)


def build(name, **kwargs):
    torch.manual_seed(3)
    return NETWORKS[name](**kwargs)


def gradients(module, *streams):
    torch.manual_seed(11)
    loss = sum((x * x).sum() for x in module(*streams))
    loss.backward()
    return {n: p.grad for n, p in module.named_parameters()}


def assert_equal(ours, expected, rtol=1e-9):
    largest = max(x.abs().max() for x in expected.values() if x is not None)
    for name, x in expected.items():
        if x is None:
            assert ours[name] is None, name
        else:
            torch.testing.assert_close(ours[name], x, rtol=rtol, atol=float(rtol * 1e-3 * largest), msg=name)


@every_network
def test_backward_reconstructs_every_stream(name):
    assert_invertible(build(name), *inputs(name), tolerance=1e-12)


@every_network
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('requires_grad', [True, False])
def test_gradients_buffers_and_random_state_equal_plain_autograd(name, training, requires_grad):
    assert_same_gradients(build(name).train(training), *inputs(name, requires_grad))


@pytest.mark.parametrize('name', ['two_stream', 'halves'])
@pytest.mark.parametrize('depth', [1, 2, 5])
def test_gradients_equal_plain_autograd_at_odd_and_even_depth(name, depth):
    assert_same_gradients(build(name, depth=depth), *inputs(name))


@every_network
@pytest.mark.parametrize('cache_every', [1, 2, 3])
def test_cached_states_change_no_gradient(name, cache_every):
    module = build(name)
    module.cache_every = cache_every
    assert_same_gradients(module, *inputs(name))


@pytest.mark.slow
@every_network
def test_gradcheck_accepts_the_node(name):
    module = build(name).eval()
    streams = tuple(x[:1, ..., :6].detach().requires_grad_() for x in inputs(name))
    if name in ('halves', 'pyramid'):
        streams = tuple(x[..., :4, :4].detach().requires_grad_() for x in streams)
    assert torch.autograd.gradcheck(module, streams)


@every_network
def test_batch_statistics_are_updated_once_per_step(name):
    module, plain = build(name), set_reversible(build(name), False)
    gradients(module, *inputs(name)), gradients(plain, *inputs(name))
    for (key, ours), expected in zip(module.named_buffers(), plain.buffers()):
        assert torch.equal(ours, expected), key


def test_buffers_stay_the_same_objects():
    module = build('halves')
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [m.running_mean for m in norms]
    gradients(module, *inputs('halves'))
    assert all(m.running_mean is x for m, x in zip(norms, before))


@every_network
def test_frozen_beginning_gets_no_gradient_and_the_rest_the_same(name):
    module = build(name)
    module.couplings[0].requires_grad_(False)
    plain = set_reversible(copy.deepcopy(module), False)
    ours, expected = (gradients(m, *inputs(name, requires_grad=False)) for m in (module, plain))
    assert all(g is None for n, g in ours.items() if n.startswith('couplings.0.'))
    assert_equal(ours, expected)


def test_frozen_beginning_is_not_undone():
    module = build('halves')
    module.couplings[0].requires_grad_(False)
    with check_reconstruction() as report:
        gradients(module, *inputs('halves', requires_grad=False))
    assert min(e.index for e in report.errors) == 2  # steps 0 and 1 are the first coupling's


def test_frozen_functions_within_a_coupling_that_begins_a_level():
    module = build('pyramid')
    module.couplings[0].requires_grad_(False)
    module.couplings[1].down.requires_grad_(False)  # a level begins, then the first weight that is trained
    plain = set_reversible(copy.deepcopy(module), False)
    assert_equal(*(gradients(m, *inputs('pyramid', requires_grad=False)) for m in (module, plain)))


def test_frozen_middle_passes_the_gradient_on():
    module = build('two_stream')
    module.couplings[1].requires_grad_(False)
    assert_same_gradients(module, *inputs('two_stream'))


@every_network
def test_two_forwards_before_one_backward(name):
    module = build(name)
    plain = set_reversible(copy.deepcopy(module), False)
    found = []
    for m in (module, plain):
        torch.manual_seed(5)
        first, second = m(*inputs(name)), m(*[2 * x for x in inputs(name)])
        (sum(x.sum() for x in first) + sum((x * x).sum() for x in second)).backward()
        found.append({n: p.grad for n, p in m.named_parameters()})
    assert_equal(*found)


@every_network
def test_gradients_accumulate(name):
    module = build(name)
    plain = set_reversible(copy.deepcopy(module), False)
    for _ in range(2):
        ours, expected = gradients(module, *inputs(name)), gradients(plain, *inputs(name))
    assert_equal(ours, expected)


@every_network
def test_retained_graph_allows_a_second_backward(name):
    module = build(name)
    streams = inputs(name)
    torch.manual_seed(5)
    loss = sum((x * x).sum() for x in module(*streams))
    loss.backward(retain_graph=True)
    first = [x.grad.clone() for x in streams]
    loss.backward()
    for x, once in zip(streams, first):
        torch.testing.assert_close(x.grad, 2 * once)


@pytest.mark.parametrize('options', [{}, {'keep': 'graph'}, {'overlap': True}])
def test_backward_in_inference_mode(options):
    module = build('halves')
    vars(module).update(options)
    plain = set_reversible(copy.deepcopy(module), False)
    found = []
    for m in (module, plain):
        streams = inputs('halves')
        torch.manual_seed(0)
        loss = sum((x * x).sum() for x in m(*streams))
        with torch.inference_mode():
            loss.backward()
        found.append({i: x.grad.clone() for i, x in enumerate((*streams, *m.parameters()))})
    assert_equal(*found)


def test_second_backward_without_retained_graph_raises():
    loss = sum(x.sum() for x in build('halves')(*inputs('halves')))
    loss.backward()
    with pytest.raises(RuntimeError, match='second time|retain_graph'):
        loss.backward()


def test_double_backward_raises():
    streams = inputs('halves')
    loss = sum((x * x).sum() for x in build('halves')(*streams))
    gradient, = torch.autograd.grad(loss, streams, create_graph=True)
    with pytest.raises(RuntimeError, match='second derivatives'):
        gradient.sum().backward()


def test_gradient_of_one_weight_alone():
    module = build('two_stream')
    plain = set_reversible(copy.deepcopy(module), False)
    found = []
    for m in (module, plain):
        torch.manual_seed(5)
        loss = sum((x * x).sum() for x in m(*inputs('two_stream')))
        found.append(torch.autograd.grad(loss, m.couplings[1].f[1].weight)[0])
    torch.testing.assert_close(*found)


def test_unused_output_is_allowed():
    module = build('pyramid')
    plain = set_reversible(copy.deepcopy(module), False)
    for level in range(3):
        assert_same_gradients(module, *inputs('pyramid'), forward=lambda m, x, level=level: m(x)[level])
    assert plain is not module


def test_weight_shared_by_two_functions_gets_the_sum():
    torch.manual_seed(0)
    f = networks.linear()
    module = ReversibleSequence([TwoStreamCoupling(f, networks.linear()), TwoStreamCoupling(f, f)]).double()
    assert_same_gradients(module, *inputs('two_stream'))


PARTS = (StreamPart(0, 5, 10), StreamPart(0, 0, 5))


@pytest.mark.parametrize('streams', [(0, 1), PARTS])
def test_gradient_that_shares_memory_with_the_streams_gradient_is_not_overwritten(streams):

    class AddBias(nn.Module):  # the gradient of a bias as large as the stream is the stream's gradient itself

        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.randn(3, 5, 6, dtype=torch.float64))

        def forward(self, x):
            return x.sin() + self.bias

    class AddTransposedBias(AddBias):  # here it is a view of that, also where the stream's gradient is not contiguous

        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.randn(5, 3, 6, dtype=torch.float64))

        def forward(self, x):
            return x.sin() + self.bias.transpose(0, 1)

    torch.manual_seed(0)
    couplings = [TwoStreamCoupling(AddBias(), AddTransposedBias(), streams) for _ in range(3)]
    given = inputs('two_stream')
    assert_same_gradients(ReversibleSequence(couplings), *(given if streams == (0, 1) else [torch.cat(given, 1)]))


class AddPosition(nn.Module):
    """Like a vision transformer's absolute position embedding: two gradients that are one tensor."""

    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, 5, 6, dtype=torch.float64))
        self.linear = nn.Linear(6, 6)

    def forward(self, x):
        return self.linear(x + self.position)


@pytest.mark.parametrize('output', [0, 1])
@pytest.mark.parametrize('together', [True, False])
def test_gradients_that_are_one_tensor_do_not_spoil_each_other(output, together):
    torch.manual_seed(0)
    couplings = [TwoStreamCoupling(AddPosition(), AddPosition()) for _ in range(4)]

    class Stage(nn.ModuleList):

        def steps(self):
            return [step for coupling in self for step in coupling.steps()]

    module = ReversibleSequence([Stage(couplings)] if together else couplings).double()
    streams = [x[:1].detach().requires_grad_() for x in inputs('two_stream')]
    assert_same_gradients(module, *streams, forward=lambda m, *xs: m(*xs)[output])


@pytest.mark.parametrize('output', [0, 1, 2])
def test_sum_of_two_sources_with_one_output_used(output):

    class LinearOfSum(nn.Module):

        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 6)

        def forward(self, a, b):
            return self.linear(a + b)

    class Ring(nn.Module):

        def __init__(self):
            super().__init__()
            self.f = nn.ModuleList(LinearOfSum() for _ in range(3))

        def steps(self):
            return [AdditiveStep(self.f[i], i, ((i + 1) % 3, (i + 2) % 3)) for i in range(3)]

    torch.manual_seed(0)
    streams = (*inputs('two_stream'), inputs('new_stream')[0])
    module = ReversibleSequence([Ring(), Ring()]).double()
    assert_same_gradients(module, *streams, forward=lambda m, *xs: m(*xs)[output])


def test_frozen_couplings_before_a_stream_that_requires_grad():
    frozen = NewStream(networks.linear(), 2, (0, )).requires_grad_(False)
    also_frozen = TwoStreamCoupling(networks.linear(), networks.linear(), (2, 0)).requires_grad_(False)
    module = ReversibleSequence([frozen, also_frozen, TwoStreamCoupling(networks.linear(), networks.linear())]).double()
    a, b = inputs('two_stream')
    assert_same_gradients(module, a.detach(), b)
    assert_same_gradients(module, a, b)
    untouched = inputs('new_stream')[0]
    module = ReversibleSequence([TwoStreamCoupling(networks.linear(), networks.linear()) for _ in range(2)]).double()
    module.couplings[0].requires_grad_(False)
    assert_same_gradients(module, a.detach(), b.detach(), untouched)


def test_couplings_without_steps_change_nothing():

    class Nothing(nn.Module):

        def steps(self):
            return []

    inner = list(build('two_stream').couplings)
    for couplings in ([Nothing(), *inner], [*inner, Nothing()], [Nothing()], []):
        assert_same_gradients(ReversibleSequence(couplings), *inputs('two_stream'))


def test_empty_batch():
    streams = [x[:0].detach().requires_grad_() for x in inputs('two_stream')]
    outputs = build('two_stream')(*streams)
    sum(x.sum() for x in outputs).backward()
    assert outputs[0].shape == (0, 5, 6) and streams[0].grad.shape == (0, 5, 6)


def test_function_of_several_sources():

    class Sum(nn.Module):

        def __init__(self):
            super().__init__()
            self.f = networks.linear()

        def forward(self, x, y):
            return self.f(x * y.sin())

    class ThreeStreams(nn.Module):

        def __init__(self):
            super().__init__()
            self.f = Sum()

        def steps(self):
            return [AdditiveStep(self.f, 2, (0, 1)), AdditiveStep(self.f, 0, (1, 2))]

    torch.manual_seed(0)
    streams = (*inputs('two_stream'), inputs('new_stream')[0])
    assert_same_gradients(ReversibleSequence([ThreeStreams(), ThreeStreams()]).double(), *streams)


def test_stream_that_no_step_touches_passes_through():
    streams = (*inputs('two_stream'), inputs('new_stream')[0])
    assert_same_gradients(build('two_stream'), *streams)
    integers = torch.arange(3)
    out = build('two_stream')(*inputs('two_stream'), integers)[2]
    assert torch.equal(out, integers) and not out.requires_grad


def test_input_of_the_caller_is_not_changed():
    for name in NETWORKS:
        streams = inputs(name)
        before = [x.clone() for x in streams]
        gradients(build(name), *streams)
        assert all(torch.equal(x, y) for x, y in zip(streams, before)), name


def test_outputs_and_their_gradients_stay_as_the_caller_has_them():
    module = build('pyramid')
    outputs = module(*inputs('pyramid'))
    cotangents = [torch.randn_like(x) for x in outputs]
    kept = [x.detach().clone() for x in outputs], [x.clone() for x in cotangents]
    torch.autograd.backward(outputs, cotangents)
    assert all(torch.equal(x, y) for x, y in zip(outputs, kept[0]))
    assert all(torch.equal(x, y) for x, y in zip(cotangents, kept[1]))


@every_network
def test_eval_is_deterministic_and_draws_no_random_number(name):
    module = build(name).eval()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, second = gradients(module, *inputs(name)), module(*inputs(name))
    torch.manual_seed(0)
    third = module(*inputs(name))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(x, y) for x, y in zip(second, third)) and first


@every_network
def test_inference_equals_training_mode_forward(name):
    module = build(name).eval()
    with_graph = module(*inputs(name))
    with torch.no_grad():
        without = module(*inputs(name))
    with torch.inference_mode():
        inference = module(*inputs(name, requires_grad=False))
    for x, y, z in zip(with_graph, without, inference):
        assert torch.equal(x, y) and torch.equal(x, z) and not y.requires_grad


@every_network
def test_copies_and_pickles(name):
    module = build(name)
    expected = gradients(copy.deepcopy(module), *inputs(name))
    assert_equal(gradients(pickle.loads(pickle.dumps(module)), *inputs(name)), expected)
    assert_equal(gradients(module, *inputs(name)), expected)


@every_network
def test_state_dict_is_the_same_in_both_modes(name):
    module = build(name)
    plain = set_reversible(NETWORKS[name](), False)
    plain.load_state_dict(module.state_dict())
    assert_equal(gradients(module, *inputs(name)), gradients(plain, *inputs(name)))


def test_channels_last_streams():
    module = build('pyramid').to(memory_format=torch.channels_last)
    stream = inputs('pyramid', requires_grad=False)[0].to(memory_format=torch.channels_last).requires_grad_()
    assert_same_gradients(module, stream)


def test_parts_of_unequal_size():

    def f(i, o):
        return nn.Sequential(nn.Conv2d(i, o, 1), nn.Tanh())

    parts = (StreamPart(0, 3, 8), StreamPart(0, 0, 3))
    module = ReversibleSequence([TwoStreamCoupling(f(3, 5), f(5, 3), parts) for _ in range(2)]).double()
    assert_same_gradients(module, *inputs('halves'))


def test_reversible_sequence_within_a_function():
    torch.manual_seed(0)

    class Inner(nn.Module):

        def __init__(self):
            super().__init__()
            self.sequence = networks.two_stream(2)

        def forward(self, x):
            a, b = self.sequence(x, x.sin())
            return a + b

    module = ReversibleSequence([TwoStreamCoupling(Inner(), Inner()) for _ in range(2)]).double()
    assert_same_gradients(module, *inputs('two_stream'))


@pytest.mark.parametrize('name', ['two_stream', 'halves'])
def test_compiled_module_stays_reversible(name):
    module = build(name)
    expected = gradients(copy.deepcopy(module), *inputs(name))
    with check_reconstruction() as report:
        assert_equal(gradients(torch.compile(module, backend='eager'), *inputs(name)),
                     {f'_orig_mod.{n}': g for n, g in expected.items()})
    assert len(report.errors) == 6


@pytest.mark.slow
@every_network
def test_export_and_trace_take_the_plain_path(name):
    module = build(name).eval()
    streams = inputs(name, requires_grad=False)
    expected = module(*streams)
    for exported in (torch.export.export(module, streams).module(), torch.jit.trace(module, streams)):
        for x, y in zip(exported(*streams), expected):
            torch.testing.assert_close(x, y)
