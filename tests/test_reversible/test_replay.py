"""What a replay must repeat and what it must leave alone."""
import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import mmrev.reversible.generators as generators
from mmrev import compat
from mmrev.reversible import NewStream, ReversibilityError, ReversibleSequence, TwoStreamCoupling, check_reconstruction
from mmrev.testing import assert_same_gradients, set_reversible
from support.networks import NETWORKS, inputs, loss_of, two_stream


def build(name='two_stream', **kwargs):
    torch.manual_seed(3)
    return NETWORKS[name](**kwargs)


def test_random_numbers_drawn_between_forward_and_backward_do_not_matter():
    gradients = []
    for draw in (False, True):
        module = build()
        torch.manual_seed(0)
        loss = loss_of(module(*inputs('two_stream')))
        if draw:
            torch.manual_seed(99)
        state = torch.get_rng_state()
        loss.backward()
        assert torch.equal(torch.get_rng_state(), state)
        gradients.append(module.couplings[0].f[1].weight.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize('drops', [{0}, {3}, {0, 1, 2, 3}], ids=str)
def test_functions_that_begin_to_draw_after_the_first_call_are_replayed(drops):
    def functions():
        return [nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Dropout(0.)) for _ in range(4)]

    torch.manual_seed(3)
    f = nn.ModuleList(functions()).double()
    f[1][1].momentum = None  # counts its batches
    results = []
    for reversible in (False, True):
        own = copy.deepcopy(f)
        module = ReversibleSequence([TwoStreamCoupling(*own[:2]), TwoStreamCoupling(*own[2:])], reversible)
        x = [torch.linspace(i, 1, 96, dtype=torch.float64).view(2, 3, 4, 4).requires_grad_() for i in range(2)]
        loss_of(module(*x)).backward()
        for i in drops:
            own[i][2].p = .5
        torch.manual_seed(1)
        for _ in range(2):
            loss_of(module(*x)).backward()
        results.append([*(t.grad for t in (*x, *own.parameters())), *own.buffers(), torch.get_rng_state()])
    for plain, own in zip(*results):
        torch.testing.assert_close(own, plain)


def test_mode_switched_between_forward_and_backward_does_not_matter():
    gradients = []
    for switch in (False, True):
        module = build('pyramid')
        torch.manual_seed(0)
        loss = loss_of(module(*inputs('pyramid')))
        if switch:
            module.eval()
        loss.backward()
        assert module.couplings[0].f.training is not switch
        gradients.append(module.couplings[0].f[0].weight.grad)
    assert torch.equal(*gradients)


def test_replay_starts_from_the_buffers_of_the_forward():
    """Spectral norm's weight depends on buffers that each training forward moves on."""
    from torch.nn.utils.parametrizations import spectral_norm

    torch.manual_seed(3)
    module = ReversibleSequence([
        TwoStreamCoupling(*(nn.Sequential(spectral_norm(nn.Linear(6, 6)), nn.GELU()) for _ in range(2)))
        for _ in range(2)
    ]).double()
    assert_same_gradients(module, *inputs('two_stream'))


def test_buffer_shared_by_two_functions_is_replayed_as_each_found_it():

    class Decay(nn.Module):

        def __init__(self, scale):
            super().__init__()
            self.linear = nn.Linear(6, 6)
            self.register_buffer('scale', scale)

        def forward(self, x):
            out = self.linear(x) * self.scale.clone()
            self.scale.mul_(0.5)
            return out

    torch.manual_seed(3)
    scale = torch.ones(1, dtype=torch.float64)
    couplings = [TwoStreamCoupling(Decay(scale), Decay(scale)) for _ in range(2)]
    assert_same_gradients(ReversibleSequence(couplings).double(), *inputs('two_stream'))


class Recorder(nn.Module):
    """Notes the autocast settings of every evaluation."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.seen = []

    def forward(self, x):
        out = self.linear(x)
        self.seen.append((compat.is_autocast_enabled('cpu'), compat.get_autocast_dtype('cpu'), out.dtype, x.dtype))
        return out


def test_replay_runs_under_the_autocast_of_the_forward():
    module = ReversibleSequence([TwoStreamCoupling(Recorder(), Recorder())])
    with torch.autocast('cpu', dtype=torch.bfloat16):
        outputs = module(torch.randn(2, 5, 6), torch.randn(2, 5, 6))
    loss_of(outputs).backward()
    for f in (module.couplings[0].f, module.couplings[0].g):
        assert len(f.seen) == 2 and f.seen[0] == f.seen[1]
        assert f.seen[0] == (True, torch.bfloat16, torch.bfloat16, torch.float32)
        assert f.linear.weight.grad.dtype == torch.float32
    assert all(x.dtype == torch.float32 for x in outputs)


def test_replay_without_autocast_stays_without_inside_autocast():
    module = ReversibleSequence([TwoStreamCoupling(Recorder(), Recorder())])
    loss = loss_of(module(torch.randn(2, 5, 6), torch.randn(2, 5, 6)))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss.backward()
    assert [seen[0] for seen in module.couplings[0].f.seen] == [False, False]


def test_streams_become_float32_under_autocast():
    module = two_stream(1).float()
    a, b = (torch.randn(2, 5, 6, dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
    for reversible in (True, False):
        set_reversible(module, reversible)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            outputs = module(a, b)
        assert all(x.dtype == torch.float32 for x in outputs)
        loss_of(outputs).backward()
    assert a.grad.dtype == torch.bfloat16


@pytest.mark.parametrize('name', ['two_stream', 'halves'])
def test_bf16_autocast_is_no_less_accurate_than_plain_autograd(name):
    """Error of all gradients against float32: reversible no more than 1.2 times that of plain autograd."""
    module = build(name, depth=6).float().eval()  # eval: no dropout, so that the three runs are comparable
    streams = [x.detach().float().requires_grad_() for x in inputs(name, batch=16)]

    def gradients(reversible, autocast):
        copied = set_reversible(copy.deepcopy(module), reversible)
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=autocast):
            outputs = copied(*streams)
        loss_of(outputs).backward()
        return torch.cat([p.grad.flatten() for p in copied.parameters()])

    exact = gradients(False, False)
    plain_error = (gradients(False, True) - exact).norm()
    assert 0 < (gradients(True, True) - exact).norm() <= 1.2 * plain_error


def test_autocast_with_a_weight_used_twice_loses_no_gradient():
    f = nn.Linear(6, 6)

    def run(reversible):
        f.zero_grad()
        module = ReversibleSequence([TwoStreamCoupling(f, nn.Sequential(f, nn.GELU()))], reversible)
        torch.manual_seed(0)
        streams = torch.randn(2, 5, 6), torch.randn(2, 5, 6)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            loss = loss_of(module(*streams)) + f(streams[0]).float().sum()
        loss.backward()
        return f.weight.grad.clone()

    torch.testing.assert_close(run(True), run(False), rtol=2e-2, atol=2e-2)


def test_reconstruction_report_names_the_module_that_is_not_deterministic():

    class Noise(nn.Module):
        noise = iter(range(100))

        def forward(self, x):
            return x.sin() + next(self.noise)

    module = ReversibleSequence([TwoStreamCoupling(nn.Linear(6, 6), Noise())]).double()
    with pytest.raises(RuntimeError, match=r'step 1 \(`couplings.0.g`, Noise\)'):
        with check_reconstruction(tolerance=1e-6):
            loss_of(module(*inputs('two_stream'))).backward()


def test_reconstruction_report_names_what_is_not_finite():

    class Overflow(nn.Module):

        def forward(self, x):
            return x.exp() * 1e308 * 1e308

    module = ReversibleSequence([TwoStreamCoupling(nn.Linear(6, 6), Overflow())]).double()
    with pytest.raises(RuntimeError, match=r'`couplings.0.g`.*not finite'):
        with check_reconstruction(tolerance=1e-6):
            loss_of(module(*inputs('two_stream'))).backward()


def test_cached_states_reduce_the_drift_of_float32():

    def worst(cache_every):
        module = build(depth=24).float().eval()
        module.cache_every = cache_every
        with check_reconstruction() as report:
            loss_of(module(*[x.detach().float() for x in inputs('two_stream')])).backward()
        return report.worst.error

    assert 0 < worst(4) < worst(None)


class Strides(nn.Module):
    """Notes the strides that it sees; a random mask on a GPU depends on them."""

    def __init__(self, log):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.log = log

    def forward(self, x):
        self.log.append(x.stride())
        return (x * self.weight).contiguous()


@pytest.mark.parametrize('of', [
    lambda x: x.chunk(2, dim=1), lambda x: x.to(memory_format=torch.channels_last).chunk(2, dim=1),
    lambda x: (x[:, :4, ::2], x[:, 4:, 1::2]), lambda x: (x[:, :4].transpose(1, 3), x[:, 4:].transpose(1, 3)),
    lambda x: (x[:1, :4].expand(2, -1, -1, -1), x[:, 4:]),
    lambda x: tuple(half.clone().transpose(2, 3) for half in x.chunk(2, dim=1))
])
def test_functions_see_the_same_strides_when_they_are_replayed(of):
    forward, backward = [], []
    module = ReversibleSequence([TwoStreamCoupling(Strides(forward), Strides(forward)) for _ in range(2)])
    outputs = module(*of(torch.randn(2, 8, 6, 6)))
    for m in module.modules():
        m.log = backward
    sum(x.sum() for x in outputs).backward()
    assert backward == forward[::-1] and len(forward) == 4


def test_a_new_stream_with_gaps_is_seen_with_the_same_strides_too():
    class Gaps(nn.Conv2d):

        def forward(self, x):
            return super().forward(x)[..., ::2]

    class Widened(nn.Conv2d):

        def forward(self, x):
            return super().forward(x).repeat_interleave(2, dim=-1)

    log = []
    back = TwoStreamCoupling(nn.Sequential(Strides(log), Widened(4, 4, 1)), Gaps(4, 4, 1))
    module = ReversibleSequence([NewStream(Gaps(4, 4, 1), 1), back])
    outputs = module(torch.randn(2, 4, 6, 6))
    forward, log[:] = list(log), []
    sum(x.sum() for x in outputs).backward()
    assert log == forward


@pytest.mark.parametrize('function, is_random', [
    (lambda x: F.dropout(x, 0.5), True), (lambda x: x * torch.rand_like(x), True),
    (lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.1), True),
    (lambda x: F.scaled_dot_product_attention(x, x, x), False),
    (lambda x: F.dropout(x, 0.5, training=False) * 1, False),
    (lambda x: x * torch.rand(x.shape, generator=torch.Generator()), False)
])
def test_random_numbers_are_refused_while_a_cuda_graph_is_captured(monkeypatch, function, is_random):
    """Its generator could not be rewound: the backward would see another mask, without a word."""

    class Of(nn.Linear):

        def forward(self, x):
            return function(super().forward(x))

    module, streams = ReversibleSequence([TwoStreamCoupling(Of(4, 4), Of(4, 4))]), [torch.randn(1, 1, 3, 4)] * 2
    module(*streams)
    monkeypatch.setattr(generators, '_is_capturing', lambda device: True)
    if is_random:
        with pytest.raises(ReversibilityError, match='while a CUDA graph is captured'):
            module(*streams)
    else:
        sum(x.sum() for x in module(*streams)).backward()


def fork(x):
    with torch.random.fork_rng(devices=[]):
        return F.dropout(x, 0.5)


def restore(x):
    state = torch.get_rng_state()
    x = x * torch.rand_like(x)
    torch.set_rng_state(state)
    return x


@pytest.mark.parametrize('draw', [fork, restore])
def test_random_numbers_of_a_function_that_restores_the_random_state_itself(draw):

    class Of(nn.Linear):

        def forward(self, x):
            return draw(super().forward(x))

    torch.manual_seed(3)
    functions = nn.ModuleList([Of(4, 4), Of(4, 4)]).double()
    results = []
    for reversible in (False, True):
        own = copy.deepcopy(functions)
        module = ReversibleSequence([TwoStreamCoupling(*own)], reversible)
        x = [torch.linspace(i, 1, 20, dtype=torch.float64).view(5, 4).sin().requires_grad_() for i in range(2)]
        torch.manual_seed(4)
        for _ in range(2):
            loss = loss_of(module(*x))
            torch.rand(5)
            loss.backward()
        results.append([*(t.grad for t in (*x, *own.parameters())), torch.get_rng_state()])
    for plain, own in zip(*results):
        torch.testing.assert_close(own, plain)


class Inner(nn.Module):
    """A reversible sequence of batch norms as the function of a step."""

    def __init__(self):
        super().__init__()
        self.sequence = ReversibleSequence(
            [TwoStreamCoupling(*[nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)) for _ in range(2)])])

    def forward(self, x):
        return torch.cat(self.sequence(*x.chunk(2, 1)), 1)


@pytest.mark.parametrize('keep', ['undo', 'graph'])
def test_statistics_of_a_sequence_within_a_function_are_updated_once(keep):
    torch.manual_seed(3)
    functions = nn.ModuleList([Inner(), Inner()]).double()
    results = []
    for reversible in (False, True):
        own = copy.deepcopy(functions)
        module = set_reversible(ReversibleSequence([TwoStreamCoupling(*own)], keep=keep), reversible)
        x = [torch.linspace(i, 1, 64, dtype=torch.float64).view(2, 4, 4, 2).sin().requires_grad_() for i in range(2)]
        for _ in range(3):
            loss_of(module(*x)).backward()
        results.append([*(t.grad for t in (*x, *own.parameters())), *own.buffers()])
    for plain, own in zip(*results):
        torch.testing.assert_close(own, plain)


class ReadsStatistics(nn.Module):
    """Uses the running statistics of its batch norm: before it, after it, or by evaluating it."""

    def __init__(self, when):
        super().__init__()
        self.linear, self.norm, self.when = nn.Linear(4, 4), nn.BatchNorm1d(4), when

    def forward(self, x):
        if self.when == 'before':
            x = x - self.norm.running_mean
        y = self.norm(self.linear(x).tanh())
        if self.when == 'after':
            y = y * self.norm.running_var.rsqrt()
        if self.when == 'evaluated':
            self.norm.eval()
            y = self.norm(2 * y)
            self.norm.train()
        return y.sin()


@pytest.mark.parametrize('when', ['before', 'after', 'evaluated'])
def test_a_function_that_reads_its_running_statistics_finds_them_as_the_forward_did(when):
    torch.manual_seed(3)
    functions = nn.ModuleList([ReadsStatistics(when), ReadsStatistics(when)]).double()
    results = []
    for reversible in (False, True):
        own = copy.deepcopy(functions)
        module = ReversibleSequence([TwoStreamCoupling(*own)], reversible)
        x = [torch.linspace(i, 1, 20, dtype=torch.float64).view(5, 4).sin().requires_grad_() for i in range(2)]
        for _ in range(2):
            loss = loss_of(module(*x))
            buffers = [b.clone() for b in own.buffers()]
            if reversible:  # plain autograd itself would use the later statistics of an evaluated batch norm
                with torch.no_grad():
                    module(*[3 * t for t in x])
            loss.backward()
            for b, before in zip(own.buffers(), buffers):
                b.copy_(before)
        results.append([*(t.grad for t in (*x, *own.parameters())), *own.buffers()])
    for plain, own in zip(*results):
        torch.testing.assert_close(own, plain)


class Checkpointed(nn.Module):
    """Batch norm and dropout within a checkpoint, or not."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Tanh(), nn.Linear(4, 4))
        self.checkpoints = True

    def forward(self, x):
        return checkpoint(self.layers, x, use_reentrant=False) if self.checkpoints else self.layers(x)


@pytest.mark.parametrize('overlap', [False, True])
def test_a_checkpoint_of_batch_norms_within_a_function_updates_statistics_once(overlap):
    torch.manual_seed(3)
    functions = nn.ModuleList(Checkpointed() for _ in range(4)).double()
    results = []
    for reversible in (False, True):
        own = copy.deepcopy(functions)
        for f in own:
            f.checkpoints = reversible
            f.layers[2].p = 0. if overlap else .5
        couplings = [TwoStreamCoupling(*own[:2]), TwoStreamCoupling(*own[2:])]
        module = ReversibleSequence(couplings, reversible, overlap=overlap and reversible)
        x = [torch.linspace(i, 1, 20, dtype=torch.float64).view(5, 4).sin().requires_grad_() for i in range(2)]
        torch.manual_seed(4)
        for _ in range(2):
            loss_of(module(*x)).backward()
        results.append([*(t.grad for t in (*x, *own.parameters())), *own.buffers(), torch.get_rng_state()])
    for plain, own in zip(*results):
        torch.testing.assert_close(own, plain)
