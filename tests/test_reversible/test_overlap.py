"""Recomputing the next step while this one is differentiated changes no bit of the gradients."""
import threading
import time
import warnings
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.testing._internal.distributed.fake_pg  # noqa: F401 (registers the backend `fake`)
from torch import nn
from torch.utils.checkpoint import checkpoint

import mmrev.reversible.overlap as overlapping
from mmrev.reversible import (AdditiveStep, ReversibilityError, ReversibleSequence, TwoStreamCoupling,
                              check_reconstruction)
from mmrev.testing import PeakMemory
from support.networks import NETWORKS, inputs
from support.overlap import Energy, assert_same_bits, build, dropping, gradients


@pytest.mark.parametrize('cache_every', [None, 2])
@pytest.mark.parametrize('name', NETWORKS)
def test_same_bits(name, cache_every):
    module, streams = build(name), inputs(name)
    module.cache_every = cache_every
    assert_same_bits(gradients(module, streams, True), gradients(module, streams, False))


@pytest.mark.parametrize('amp', [False, True])
@pytest.mark.parametrize('depth', [1, 2, 5])
def test_same_bits_with_dropout_at_odd_and_even_depth(depth, amp):
    module, streams = dropping(depth), [torch.randn(2, 16, 8, 8) for _ in range(2)]
    assert_same_bits(gradients(module, streams, True, amp), gradients(module, streams, False, amp))


def test_frozen_beginnings_and_a_second_backward():
    module, streams = dropping(4), [torch.randn(2, 16, 8, 8) for _ in range(2)]
    module.couplings[:2].requires_grad_(False)
    results = []
    for module.overlap in (False, True):
        torch.manual_seed(1)
        loss = sum((x * x).sum() for x in module(*streams))
        loss.backward(retain_graph=True)
        loss.backward()
        results.append({n: p.grad for n, p in module.named_parameters()})
        module.zero_grad()
    assert_same_bits(results[1], results[0])


class Noting(nn.Module):
    """Notes on which thread it runs, and when it begins and its gradient is done."""

    def __init__(self, log, name):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.log, self.name = log, name

    def forward(self, x):
        if torch.is_grad_enabled():
            self.log.append((self.name, 'recomputed', threading.current_thread().name))
            time.sleep(0.05)
        y = x * self.weight
        if y.requires_grad:
            y.register_hook(self.differentiate)
        return y

    def differentiate(self, _):
        time.sleep(0.05)
        self.log.append((self.name, 'differentiated', threading.current_thread().name))


def test_a_second_thread_runs_one_step_ahead_and_no_more():
    log = []
    module = ReversibleSequence([TwoStreamCoupling(Noting(log, 2 * i), Noting(log, 2 * i + 1)) for i in range(3)],
                                overlap=True)
    sum(x.sum() for x in module(torch.ones(3), torch.ones(3))).backward()
    order = [(name, what) for name, what, _ in log]
    for i in range(1, 5):
        assert order.index((i - 1, 'recomputed')) < order.index((i, 'differentiated'))
        assert order.index((i + 1, 'differentiated')) < order.index((i - 1, 'recomputed'))
    assert any('mmrev-overlap' in thread for _, what, thread in log if what == 'recomputed')
    assert not any('mmrev-overlap' in thread for _, what, thread in log if what == 'differentiated')


def test_memory_of_both_threads_is_seen_and_is_one_graph_more():
    def peak(overlap):
        module = dropping(8)
        module.overlap = overlap
        streams = [torch.randn(4, 16, 32, 32) for _ in range(2)]
        with PeakMemory() as memory:
            sum(x.sum() for x in module(*streams)).backward()
        return memory.peak

    with PeakMemory() as memory:
        f, x = dropping(1).couplings[0].f, torch.randn(4, 16, 32, 32, requires_grad=True)
        before = memory.current
        y = f(x)
        graph = memory.current - before
        del y
    stream = 4 * 16 * 32 * 32 * 4
    assert peak(False) < peak(True) <= peak(False) + graph + 2 * stream


def test_a_backward_that_stops_early_leaves_nothing_running():
    """It would hold the random state of the forward."""
    states = []
    for overlap in (False, True):
        module = dropping(6, width=64)
        module.overlap = overlap
        torch.manual_seed(0)
        x = torch.randn(2, 64, 32, 32)
        outputs = module(x, x)
        torch.autograd.grad(sum(y.sum() for y in outputs), list(module.couplings[-1].parameters()))
        states.append(torch.rand(3))
    assert torch.equal(*states)


def test_the_last_step_that_ran_ahead_is_released_before_the_backward_ends():
    module, kept = dropping(3), []
    module.overlap = True
    x = torch.randn(1, 16, 4, 4, requires_grad=True)
    y = x * 2
    y.register_hook(lambda gradient: kept.append(dict(overlapping._begun)))
    sum(module(y, y)).sum().backward()
    assert kept == [{}]


class Nest(nn.Module):
    """A function with a reversible sequence within."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return sum(self.inner(x, x))


def test_steps_that_are_sequences_themselves_go_one_by_one():
    torch.manual_seed(0)
    module = ReversibleSequence([TwoStreamCoupling(Nest(dropping(2)), Nest(dropping(2))) for _ in range(3)])
    streams = [torch.randn(2, 16, 6, 6) for _ in range(2)]
    expected = gradients(module, streams, False)
    with pytest.warns(UserWarning, match='contains a reversible sequence'):
        assert_same_bits(gradients(module, streams, True), expected)


def test_an_overlapped_backward_within_another_does_not_wait_for_itself():
    module = ReversibleSequence([TwoStreamCoupling(nn.Sequential(nn.Conv2d(16, 16, 1), Energy(dropping(3).eval())),
                                                   nn.Conv2d(16, 16, 1)) for _ in range(3)], overlap=True)
    for m in module.modules():
        if isinstance(m, Energy):
            m.inner[0].overlap = True
    x = torch.randn(1, 16, 4, 4)
    thread = threading.Thread(target=lambda: sum(y.sum() for y in module(x, x)).backward(), daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive() and module.couplings[0].g.weight.grad.isfinite().all()


@pytest.mark.parametrize('checkpointed', ['the sequence', 'what is beside it'])
def test_an_overlapped_sequence_and_a_checkpoint_within_a_function_do_not_wait_for_each_other(checkpointed):
    """A checkpoint within a function makes the outer sequence hold the lock while it differentiates the function."""

    class Checkpointed(Nest):

        def forward(self, x):
            if checkpointed == 'the sequence':
                return checkpoint(super().forward, x, use_reentrant=False)
            return super().forward(checkpoint(torch.sin, x, use_reentrant=False))

    torch.manual_seed(0)
    module = ReversibleSequence([TwoStreamCoupling(Checkpointed(dropping(2)), dropping(2).couplings[0].f)])
    module.eval()
    streams = [torch.randn(2, 16, 6, 6) for _ in range(2)]
    expected = gradients(module, streams, False)
    module.couplings[0].f.inner.overlap = True
    found = []
    with pytest.warns(UserWarning, match='within a function of another'):
        thread = threading.Thread(target=lambda: found.append(gradients(module, streams, False)), daemon=True)
        thread.start()
        thread.join(60)
    assert_same_bits(*found, expected)


def test_errors_of_the_second_thread_arrive():
    module, streams = dropping(3), [torch.randn(2, 16, 8, 8) for _ in range(2)]
    module.overlap = True
    outputs = module(*streams)
    with torch.no_grad():
        module.couplings[0].f[0].weight.add_(1)
    with pytest.raises(ReversibilityError, match='couplings.0.f.*modified in place'):
        sum(x.sum() for x in outputs).backward()
    gradients(module, streams, True)  # and the next call works


def test_reconstruction_is_checked_too():
    module, streams = dropping(3), [torch.randn(2, 16, 8, 8) for _ in range(2)]
    module.overlap = True
    with check_reconstruction() as report:
        sum(x.sum() for x in module(*streams)).backward()
    assert len(report.errors) == 6


def test_says_where_it_cannot_help():
    class Single(nn.Module):

        def __init__(self):
            super().__init__()
            self.f = nn.Conv1d(4, 4, 1)

        def steps(self):
            return [AdditiveStep(self.f, 0, (1, ))]

    module, streams = ReversibleSequence([Single()], overlap=True), [torch.randn(2, 4, 8) for _ in range(2)]
    with pytest.warns(UserWarning, match='no effect.*only one step'):
        module(*streams)
    with warnings.catch_warnings():  # once
        warnings.simplefilter('error')
        module(*streams)


class MeanOverProcesses(nn.Module):
    """A collective in the forward and in the backward of a step."""

    class Mean(torch.autograd.Function):

        @staticmethod
        def forward(ctx, x):
            x = x.clone()
            dist.all_reduce(x)
            return x / dist.get_world_size()

        @staticmethod
        def backward(ctx, gradient):
            return MeanOverProcesses.Mean.apply(gradient)

    def forward(self, x):
        return x - self.Mean.apply(x.mean(0, keepdim=True))


def communicate(rank, folder):
    dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    torch.manual_seed(0)
    module = ReversibleSequence([TwoStreamCoupling(*[nn.Sequential(nn.Conv1d(4, 4, 1), MeanOverProcesses())
                                                     for _ in range(2)]) for _ in range(3)])
    streams = [torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(rank)) for _ in range(2)]
    expected = gradients(module, streams, False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        assert_same_bits(gradients(module, streams, True), expected)
    assert any('communicates' in str(w.message) and 'couplings.0.f' in str(w.message) for w in caught)
    silent = dropping(2, width=4)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        gradients(silent, [torch.randn(2, 4, 8, 8) for _ in range(2)], True)
    dist.destroy_process_group()


@pytest.mark.subprocess
def test_a_step_that_communicates_is_undone_in_order(tmp_path):
    mp.spawn(communicate, (str(tmp_path), ), nprocs=2)


@pytest.mark.parametrize('backend, overlaps', [('cpu:gloo', True), ('cpu:gloo,cuda:fake', False)])
def test_a_backend_for_each_device_is_asked_for_its_collectives(backend, overlaps):
    """The group as a whole cannot tell: "does not yet support sequence numbers"; a fake backend cannot, either."""
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            gradients(dropping(2, width=4), [torch.randn(2, 4, 8, 8) for _ in range(2)], True)
        assert any('does not count its collectives' in str(w.message) for w in caught) is not overlaps
    finally:
        dist.destroy_process_group()


def test_collectives_of_all_backends_of_a_group_are_counted(monkeypatch):
    class Group:
        """As ``cpu:gloo,cuda:nccl``: it counts on no device by itself."""
        _device_types = [torch.device('cpu'), torch.device('cuda')]

        def _get_backend(self, device):
            return Backend({'cpu': 3, 'cuda': 4}[device.type])

    class Backend:

        def __init__(self, count):
            self._get_sequence_number_for_group = lambda: count

    monkeypatch.setattr(overlapping.dist, 'is_initialized', lambda: True)
    monkeypatch.setattr(overlapping.dist.distributed_c10d, '_world', SimpleNamespace(pg_map=[Group()]))
    assert overlapping.collectives() == 7
