"""What few networks do: hooks that change modules, backwards that end early, weights computed from weights."""
import threading
from functools import partial

import pytest
import torch
from torch import nn
from torch.func import functional_call

from mmrev.reversible import ReversibilityError, ReversibleSequence, StreamPart, TwoStreamCoupling
from mmrev.reversible.streams import StreamBuffers
from test_reversible.test_side_effects import assert_equal, build, function, inputs, step


def with_dropout():
    return nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Dropout(.4))


def loss_of(outputs):
    return sum((i + 1) * (x * x).sum() for i, x in enumerate(outputs))


def act(armed, change, f):
    if armed:
        change(f)


def evaluate(f):
    f.eval()


def replace(f):
    f[0].weight = nn.Parameter(2 * f[0].weight.detach())


@pytest.mark.parametrize('make, change', [(with_dropout, evaluate), (function, replace)])
def test_a_module_hook_in_a_backward_may_change_the_step_before(make, change):
    found = []
    for reversible in (True, False):
        module = build(make, reversible=reversible)
        coupling, armed = module.couplings[1], []
        coupling.g[0].register_full_backward_hook(lambda *_: act(armed, change, coupling.f))
        step(module)
        weights = [*module.parameters()]
        armed.append(True)
        torch.manual_seed(3)
        step(module)
        found.append([p.grad for p in weights])
    assert_equal(*found)


@pytest.mark.parametrize('change', [lambda f: f[0].weight.detach().mul_(2),
                                    lambda f: setattr(f[0].weight, 'data', f[0].weight.data * 2)])
def test_a_module_hook_that_writes_a_weight_of_the_step_before_is_refused(change):
    module = build()
    coupling, armed = module.couplings[1], []
    coupling.g[0].register_full_backward_hook(lambda *_: act(armed, change, coupling.f))
    step(module)
    armed.append(True)
    with pytest.raises(ReversibilityError, match='`weight` of step 2 .*modified'):
        step(module)


class Slow(nn.Module):
    """Reports that it runs again in a second thread, and waits a moment there."""

    def __init__(self):
        super().__init__()
        self.linear, self.dropout, self.waits = nn.Linear(4, 4), nn.Dropout(.4), False

    def forward(self, x):
        if self.waits and threading.current_thread() is not threading.main_thread():
            threading.Event().wait(.3)
        return self.dropout(self.linear(x).tanh())


def test_a_hook_on_a_weight_does_not_meet_a_step_that_runs_ahead():
    found = []
    for reversible in (True, False):
        module = build(Slow, reversible=reversible, overlap=True)
        step(module)
        module.couplings[0].g.waits = True
        module.couplings[1].f.linear.weight.register_post_accumulate_grad_hook(lambda _, m=module: evaluate(m))
        torch.manual_seed(3)
        found.append(step(module)[1])
        assert not any(m.training for m in module.modules())
    assert_equal(*found)


class TwoLayers(nn.Module):

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.b(self.a(x).tanh())


@pytest.mark.parametrize('computed', [lambda p: p.t(), lambda p: p + 1, lambda p: p * 2])
def test_a_weight_computed_from_another_of_the_same_function_is_refused(computed):
    module = build(TwoLayers)
    weight = module.couplings[0].f.a.weight
    with pytest.raises(ReversibilityError, match='step 0 .*computed from another weight'):
        functional_call(module, {'couplings.0.f.b.weight': computed(weight)}, tuple(inputs()))


def test_weights_computed_from_weights_of_other_functions_are_right():
    found = []
    for reversible in (True, False):
        module = build(TwoLayers, reversible=reversible)
        weight = module.couplings[0].f.a.weight
        given = {'couplings.0.g.b.weight': weight.t(), 'couplings.1.f.a.weight': 2 * weight}
        loss_of(functional_call(module, given, tuple(inputs()))).backward()
        found.append([p.grad for p in module.parameters() if p.grad is not None])
    assert_equal(*found)


@pytest.mark.parametrize('keep', ['undo', 'graph', 'state'])
def test_a_weight_computed_before_the_call_serves_several_couplings(keep):
    found = []
    for reversible in (True, False):
        module = build(TwoLayers, reversible=reversible, keep=keep)
        origin = nn.Parameter(torch.linspace(-1, 1, 16, dtype=torch.float64).view(4, 4))
        uses = 'couplings.0.f.a.weight', 'couplings.1.f.b.weight', 'couplings.1.g.a.weight'
        loss_of(functional_call(module, dict.fromkeys(uses, origin.tanh()), tuple(inputs()))).backward()
        found.append([origin.grad, *(p.grad for p in module.parameters() if p.grad is not None)])
    assert_equal(*found)


def test_a_backward_of_late_weights_alone_ends():
    found = []
    for reversible in (True, False):
        module = build(reversible=reversible)
        module.couplings[0].f[0].weight.register_hook(lambda g: g * 2)
        loss = loss_of(module(*inputs()))
        torch.autograd.grad(loss, [module.couplings[-1].g[0].weight], retain_graph=True)
        found.append(step(module))
    assert_equal(*found)


def test_a_backward_whose_hook_raised_an_error_ends():
    module = build()
    failing = module.couplings[1].f[0].weight.register_hook(lambda g: 1 / 0)
    outputs = module(*inputs())
    with pytest.raises(ZeroDivisionError):
        loss_of(outputs).backward()
    failing.remove()
    module.couplings[0].f[0].weight.register_hook(lambda g: g * 2)
    plain = build(reversible=False)
    plain.couplings[0].f[0].weight.register_hook(lambda g: g * 2)
    assert_equal(step(module), step(plain))


@pytest.mark.parametrize('outer', ['undo', 'graph'])
def test_a_sequence_within_a_function_may_keep_graphs(outer):

    class Nested(nn.Module):

        def __init__(self):
            super().__init__()
            self.inner = ReversibleSequence([TwoStreamCoupling(nn.Linear(2, 2), nn.Linear(2, 2))], keep='graph')

        def forward(self, x):
            return torch.cat(self.inner(x[:, :2], x[:, 2:]), 1)

    module, plain = build(Nested, keep=outer), build(Nested, reversible=False)
    for _ in range(2):
        assert_equal(step(module), step(plain))


def test_autocast_around_the_backward_alone():
    found = []
    for reversible in (True, False):
        module = build(lambda: nn.Linear(4, 4), reversible=reversible).float()
        loss = loss_of(module(*[x.detach().float().requires_grad_() for x in inputs()]))
        with torch.autocast('cpu', dtype=torch.bfloat16):
            loss.backward()
        found.append([p.grad for p in module.parameters()])
    torch.testing.assert_close(*found, rtol=.05, atol=.05)


def test_a_weight_that_was_deleted_before_the_backward_stays_deleted():
    module = build()
    outputs = module(*inputs())
    del module.couplings[0].f[0].bias
    loss_of(outputs).backward()
    assert 'bias' not in module.couplings[0].f[0]._parameters


def test_a_forward_does_not_see_the_flags_of_a_replay_in_another_thread():

    class Waiting(nn.Module):

        def __init__(self):
            super().__init__()
            self.linear, self.events = nn.Linear(4, 4), None

        def forward(self, x):
            if self.events and threading.current_thread() is not threading.main_thread():
                (begun, go_on), self.events = self.events, None
                begun.set()
                go_on.wait(.5)
            return self.linear(x).tanh() * (2. if self.training else 1.)

    module = build(Waiting)
    outputs = module(*inputs())
    module.eval()
    begun, go_on = module.couplings[1].f.events = threading.Event(), threading.Event()
    first = module.couplings[0].f.linear.weight
    thread = threading.Thread(target=lambda: torch.autograd.grad(loss_of(outputs), [first]))
    thread.start()
    assert begun.wait(5)
    loss = loss_of(module(*inputs()))
    go_on.set()
    thread.join()
    loss.backward()
    plain = build(Waiting, reversible=False).eval()
    step_of_plain = loss_of(plain(*inputs()))
    step_of_plain.backward()
    assert_equal([p.grad for p in module.parameters()], [p.grad for p in plain.parameters()])


class HooksItsResult(nn.Module):

    def __init__(self, asks):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.asks = asks

    def forward(self, x):
        h = self.linear(x)
        if not self.asks or h.requires_grad:
            h.register_hook(lambda g: g.clamp(-.1, .1))
        return h.tanh()


@pytest.mark.parametrize('asks, keep', [(True, 'undo'), (False, 'graph')])
def test_a_function_may_hook_its_own_tensors_where_there_is_a_graph(asks, keep):
    make = partial(HooksItsResult, asks)
    assert_equal(step(build(make, keep=keep)), step(build(make, reversible=False)))


def test_a_function_that_needs_a_graph_in_the_forward_is_refused_by_name():
    with pytest.raises(ReversibilityError, match=r'step 0 \(`couplings.0.f`, HooksItsResult\) needs a graph'):
        step(build(partial(HooksItsResult, False)))


class WritesAView(nn.Module):

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer('statistics', torch.zeros(2, 4, dtype=torch.float64))
        self.register_buffer('mean', self.statistics[0])

    def forward(self, x):
        y = self.linear(x)
        self.statistics.mul_(0.9).add_(0.1 * y.detach().mean(0))
        return (y - self.mean.clone()).tanh()


def test_buffers_that_share_memory_are_refused_by_name():
    with pytest.raises(ReversibilityError, match='`statistics` and `mean` of step 0'):
        step(build(WritesAView))


def test_scripted_modules_within_a_function_are_refused_by_name():
    with pytest.raises(ReversibilityError, match=r'step 0 \(`couplings.0.f`, Sequential\) must be a Python module'):
        step(build(lambda: nn.Sequential(torch.jit.script(function()), nn.Tanh())))


class Stores(nn.Module):

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        self.stored = self.linear(x)
        return self.stored.tanh()


@pytest.mark.parametrize('order', ['together', 'before', 'after'])
def test_a_loss_past_a_kept_graph_is_refused_if_the_graph_is_retained(order):
    module = build(Stores, keep='graph')
    loss = loss_of(module(*inputs()))
    aux = module.couplings[1].g.stored.pow(2).sum()
    losses = {'together': [loss + aux], 'before': [aux, loss], 'after': [loss, aux]}[order]
    with pytest.raises(ReversibilityError, match=r'step 3 \(`couplings.1.g`, Stores\) leaves a tensor behind'):
        for x in losses:
            x.backward(retain_graph=True)


def test_only_the_first_write_to_a_stream_in_two_halves_copies_it(monkeypatch):
    copies, add = [], StreamBuffers.add
    monkeypatch.setattr(StreamBuffers, 'add', lambda self, part, *args: copies.append(not self._owned[0]) or
                        add(self, part, *args))
    halves = StreamPart(0, 0, 2), StreamPart(0, 2, 4)
    make = partial(nn.Linear, 2, 2)
    ReversibleSequence([TwoStreamCoupling(make(), make(), halves) for _ in range(3)])(torch.randn(3, 4))
    assert copies == [True] + 5 * [False]
