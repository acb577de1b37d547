"""Several threads on one reversible network."""
import copy
import sys
import threading
import time
import warnings
from functools import partial

import pytest
import torch
from torch import nn

from mmrev.reversible import ReversibilityError, ReversibleSequence, shared
from mmrev.testing import set_reversible
from support.networks import NETWORKS, inputs, loss_of, mlp, network, two_stream


def test_state_dict_in_another_thread_holds_every_buffer_with_its_value():
    module = NETWORKS['halves'](depth=2)
    gradients_of = lambda: loss_of(module(*inputs('halves'))).backward()  # noqa: E731
    gradients_of()
    keys, wrong, done = set(module.state_dict()), [], threading.Event()

    def watch():
        while not done.is_set():
            state = module.state_dict()
            if set(state) != keys or any(v is None for v in state.values()):
                wrong.append(keys ^ set(state))

    thread = threading.Thread(target=watch)
    thread.start()
    for _ in range(20):
        gradients_of()
    done.set()
    thread.join()
    assert not wrong


class Counting(nn.Module):
    """Counts its calls in training in a buffer."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.register_buffer('calls', torch.zeros(()))

    def forward(self, x):
        time.sleep(0.002)
        self.calls += 1
        return self.linear(x).tanh()


@pytest.mark.parametrize('of', [lambda module: module, lambda module: ReversibleSequence(module.couplings)],
                         ids=['of the sequence', 'of another over its couplings'])
def test_state_dict_in_another_thread_never_sees_what_a_replay_puts_in_place(of):
    module, seen, done = network(Counting, Counting), set(), threading.Event()
    watched = of(module)

    def watch():
        while not done.is_set():
            seen.update(float(x) for name, x in watched.state_dict(keep_vars=True).items() if 'calls' in name)

    loss = loss_of(module(*inputs('two_stream', requires_grad=False)))
    thread = threading.Thread(target=watch)
    thread.start()
    loss.backward()
    done.set()
    thread.join()
    assert seen == {1.}


def test_a_copy_in_another_thread_never_has_what_a_replay_puts_in_place():

    class Slow(nn.Sequential):

        def forward(self, x):
            time.sleep(0.002)
            return super().forward(x)

    module, seen, done = network(*[lambda: Slow(nn.Linear(6, 6), nn.BatchNorm1d(6))] * 4), set(), threading.Event()

    def watch():
        while not done.is_set():
            copied = copy.deepcopy(module)
            seen.update(m.track_running_stats for m in copied.modules() if isinstance(m, nn.BatchNorm1d))
            assert copied.couplings[0].f[0].weight is not module.couplings[0].f[0].weight

    x = [torch.randn(5, 6, dtype=torch.float64) for _ in range(2)]
    thread = threading.Thread(target=watch)
    thread.start()
    for _ in range(5):
        loss_of(module(*x)).backward()
    done.set()
    thread.join()
    assert seen == {True}


def in_threads(module, streams, repetitions=10, other=None):
    """Gradients of all weights, or the error, of backwards in two threads that Python switches often.

    The second thread runs the ``other`` module, if there is one.
    """
    found = []

    def work(module):
        for _ in range(repetitions):
            try:
                found.append(torch.autograd.grad(loss_of(module(*streams)), list(module.parameters())))
            except ReversibilityError as error:
                found.append(error)

    threads = [threading.Thread(target=work, args=(m, )) for m in (module, other or module)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        [t.start() for t in threads]
        [t.join() for t in threads]
    finally:
        sys.setswitchinterval(interval)
    return found


def two_stream_without_dropout():
    module = two_stream(3)
    for m in module.modules():
        if isinstance(m, nn.Dropout):
            m.p = 0.
    module.eval()
    return module, set_reversible(copy.deepcopy(module), False), inputs('two_stream', requires_grad=False)


def test_two_threads_on_one_module_each_get_plain_gradients():
    module, plain, streams = two_stream_without_dropout()
    wanted = torch.autograd.grad(loss_of(plain(*streams)), list(plain.parameters()))
    for found in in_threads(module, streams):
        torch.testing.assert_close(found, wanted)


def counting():
    """A function that counts its evaluations in training, in a batch norm."""
    return nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.BatchNorm1d(5))


class Nested(nn.Module):
    """A function that is itself reversible."""

    def __init__(self, layers=None):
        super().__init__()
        self.layers = layers or network(counting, counting)

    def forward(self, x):
        a, b = self.layers(x, x.sin())
        return a - b


def test_two_threads_on_nested_sequences_leave_flags_and_statistics_as_one_does():
    module, streams = network(Nested, Nested, Nested, Nested), inputs('two_stream', requires_grad=False)
    plain = set_reversible(copy.deepcopy(module), False)
    wanted = torch.autograd.grad(loss_of(plain(*streams)), list(plain.parameters()))
    found = in_threads(module, streams)
    for gradients_ in found:
        torch.testing.assert_close(gradients_, wanted)
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm1d)]
    assert all(m.track_running_stats for m in norms)
    assert {int(m.num_batches_tracked) for m in norms} == {20}


def outer(layers):
    return network(partial(Nested, layers), mlp)


def over_the_inner_couplings(inner):
    return [ReversibleSequence(inner.couplings), outer(inner)]


def over_couplings_that_are_nested_later(inner):
    middle = outer(inner)
    return [ReversibleSequence(middle.couplings), middle, outer(middle)]


def over_a_function_of_the_inner_one(inner):
    return [network(lambda: inner.couplings[0].f, mlp), outer(inner)]


@pytest.mark.parametrize('called_before', [True, False])
@pytest.mark.parametrize('build', [
    lambda inner: [inner, outer(inner)], lambda inner: [outer(inner), outer(inner)], over_the_inner_couplings,
    over_couplings_that_are_nested_later, over_a_function_of_the_inner_one
], ids=['inner', 'two outer', 'inner couplings', 'outer couplings', 'inner function'])
def test_two_threads_on_sequences_that_share_functions_leave_flags_and_statistics_as_one_does(build, called_before):
    """Without one lock a thread takes the flags within the other's replay for those to restore."""
    inner, streams = network(counting, counting), inputs('two_stream', requires_grad=False)
    built = build(inner)
    norm = inner.couplings[0].f[2]
    for module in built if called_before else ():
        loss_of(module(*streams)).backward()
    counted = int(norm.num_batches_tracked)
    assert not any(isinstance(x, Exception) for x in in_threads(built[0], streams, 15, built[-1]))
    assert int(norm.num_batches_tracked) == counted + 30
    assert norm.track_running_stats


def test_an_overlapped_sequence_and_one_around_it_in_another_thread_do_not_wait_for_each_other():
    inner, streams = network(mlp, mlp, mlp, mlp), inputs('two_stream', requires_grad=False)
    around = outer(inner)
    inner.overlap = True
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # overlap has no effect within the function
        found = []
        thread = threading.Thread(target=lambda: found.extend(in_threads(inner, streams, 50, around)), daemon=True)
        thread.start()
        thread.join(60)
    assert len(found) == 100 and not any(isinstance(x, Exception) for x in found)


def test_inference_of_a_sequence_that_was_never_trained_waits_for_a_replay():
    """A replay has the flags of the forward, and tracks no statistics."""
    inside, inferred = threading.Event(), threading.Event()

    class Waiting(nn.Module):

        def forward(self, x):
            if torch._C._current_graph_task_id() >= 0:
                inside.set()
                inferred.wait(0.5)
            return x.sin()

    function = nn.Sequential(nn.Linear(6, 6), Waiting(), nn.BatchNorm1d(5))
    trained, other = (network(lambda: function, mlp) for _ in range(2))
    streams, found = inputs('two_stream', requires_grad=False), []

    def infer():
        inside.wait()
        with torch.no_grad():
            found.extend(other(*streams))
        inferred.set()

    loss = loss_of(trained(*streams))
    trained.eval()
    with torch.no_grad():
        expected = trained(*streams)
    thread = threading.Thread(target=infer)
    thread.start()
    loss.backward()
    thread.join()
    torch.testing.assert_close(tuple(found), expected)


def test_two_threads_with_hooks_on_weights_get_plain_gradients_or_a_refusal():
    module, plain, streams = two_stream_without_dropout()
    for m in (module, plain):
        for p in m.parameters():
            p.register_hook(lambda g: g * 10)
    wanted = torch.autograd.grad(loss_of(plain(*streams)), list(plain.parameters()))
    found = in_threads(module, streams)
    refused = [x for x in found if isinstance(x, ReversibilityError)]
    assert refused and all('two threads' in str(x) for x in refused)
    for gradients_ in found:
        if not isinstance(gradients_, ReversibilityError):
            torch.testing.assert_close(gradients_, wanted)
    torch.testing.assert_close(torch.autograd.grad(loss_of(module(*streams)), list(module.parameters())), wanted)


def test_another_thread_s_backward_is_refused_until_the_last_hooks_have_run():
    """Autograd runs the hooks of the first coupling's weights after the last node has returned."""
    module, plain, streams = two_stream_without_dropout()
    found = []

    def hook(gradient):
        if not found:
            found.append(None)
            other = threading.Thread(target=lambda: found.extend(in_threads(module, streams, 1)))
            other.start()
            other.join()
        return gradient * 10

    weight = list(module.couplings[0].parameters())[-1]
    weight.register_hook(hook)
    gradients, = torch.autograd.grad(loss_of(module(*streams)), [weight])
    assert len(found) == 3 and all('two threads' in str(x) for x in found[1:])
    wanted, = torch.autograd.grad(loss_of(plain(*streams)), [list(plain.couplings[0].parameters())[-1]])
    torch.testing.assert_close(gradients, wanted * 10)
    torch.testing.assert_close(torch.autograd.grad(loss_of(module(*streams)), [weight])[0], wanted * 10)


def test_first_calls_in_two_threads_know_of_each_other(monkeypatch):
    module, _, _ = two_stream_without_dropout()

    class Slow(shared.Shared):

        def __init__(self):
            time.sleep(0.05)
            super().__init__()

    monkeypatch.setattr(shared, 'Shared', Slow)
    found = []
    threads = [threading.Thread(target=lambda: found.append(module._shared())) for _ in range(2)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert found[0] is found[1]
