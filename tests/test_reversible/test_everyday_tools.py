"""What users put around and into their networks every day gives plain autograd's numbers."""
import time
from contextvars import ContextVar

import pytest
import torch
from torch import nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm
from torch.nn.utils.prune import BasePruningMethod
from torch.overrides import TorchFunctionMode

from mmrev.reversible import (AdditiveStep, NewStream, ReversibilityError, ReversibleSequence, StreamPart,
                              TwoStreamCoupling)
from mmrev.reversible.streams import StreamBuffers

KEEPS = ('undo', 'state', 'graph')
HALVES = StreamPart(0, 0, 4), StreamPart(0, 4, 8)


def function():
    return nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU())


def build(make=function, streams=(0, 1), **kwargs):
    torch.manual_seed(0)
    return ReversibleSequence([TwoStreamCoupling(make(), make(), streams) for _ in range(3)], **kwargs).double()


def streams(rows=4):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(rows, 8, generator=generator, dtype=torch.float64) for _ in range(2)]


def loss_of(module, *xs):
    a, b = module(*xs or streams())
    return (a.sin() * b).sum()


def gradients(module):
    return [p.grad for p in module.parameters()]


def assert_as_plain(case, make=function, keeps=KEEPS, **kwargs):
    """``case(module)`` returns tensors; it gets a reversible module, and one under plain autograd."""
    expected = case(build(make, reversible=False))
    assert any(x is not None and x.abs().max() > 0 for x in expected)
    for keep in keeps:
        torch.testing.assert_close(case(build(make, keep=keep, **kwargs)), expected, rtol=1e-9, atol=1e-12)


def keep_by_module_hook(f, kept):
    f.register_full_backward_hook(lambda m, of_inputs, of_outputs: kept.append(of_outputs[0]))


def keep_by_tensor_hook(f, kept):
    def hook(m, args, out):
        if out.requires_grad:
            out.register_hook(lambda gradient: kept.append(gradient.detach()))
    f.register_forward_hook(hook)


@pytest.mark.parametrize('keep_gradient', [keep_by_module_hook, keep_by_tensor_hook])
@pytest.mark.parametrize('kwargs', [{}, dict(overlap=True)], ids=['', 'overlap'])
def test_a_gradient_that_a_hook_keeps_is_not_overwritten_as_for_grad_cam(keep_gradient, kwargs):
    def case(module):
        kept = []
        for coupling in module.couplings:
            keep_gradient(coupling.f, kept)
            keep_gradient(coupling.g, kept)
        loss_of(module).backward()
        return kept

    assert_as_plain(case, **kwargs)


@pytest.mark.parametrize('keep', KEEPS)
def test_a_gradient_of_half_a_stream_that_a_hook_keeps_is_not_overwritten(keep):
    def run(**kwargs):
        torch.manual_seed(0)
        module, kept = ReversibleSequence([TwoStreamCoupling(nn.Linear(4, 4), nn.Linear(4, 4), HALVES)
                                           for _ in range(3)], **kwargs).double(), []
        keep_by_module_hook(module.couplings[1].f, kept)
        module(streams()[0])[0].sin().sum().backward()
        return kept

    torch.testing.assert_close(run(keep=keep), run(reversible=False), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('keep', KEEPS)
def test_a_gradient_of_a_new_stream_that_a_hook_keeps_is_not_overwritten(keep):
    def run(**kwargs):
        torch.manual_seed(0)
        couplings = [TwoStreamCoupling(function(), function()), NewStream(nn.Linear(8, 8), 2, (1, )),
                     TwoStreamCoupling(function(), function(), (1, 2))]
        module, kept = ReversibleSequence(couplings, **kwargs).double(), []
        keep_by_module_hook(module.couplings[1].f, kept)
        sum(x.sin().sum() for x in module(*streams())).backward()
        return kept + gradients(module)

    torch.testing.assert_close(run(keep=keep), run(reversible=False), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('begin', ['forward', 'fourth forward, with a frozen coupling'])
def test_a_hook_that_takes_what_needs_no_gradient_may_be_removed_before_the_backward(begin):
    def case(module):
        taken = []
        handle = module.couplings[1].f.register_forward_hook(lambda m, args, out: taken.append(out.detach()))
        if begin != 'forward':
            module.couplings[0].requires_grad_(False)
            for _ in range(3):
                loss_of(module).backward()
        loss = loss_of(module)
        handle.remove()
        loss.backward()
        return [taken[0], *gradients(module)]

    assert_as_plain(case)


def test_a_hook_may_remove_itself():
    def case(module):
        handle = module.couplings[1].f.register_forward_hook(lambda *_: handle.remove())
        loss_of(module).backward()
        return gradients(module)

    assert_as_plain(case)


def hook_once(f, taken):
    return f.register_forward_hook(lambda m, args, out: taken or taken.append(out))


def hook_all_modules(f, taken):
    return register_module_forward_hook(lambda m, args, out: taken.append(out) if m is f else None)


@pytest.mark.parametrize('hook', [hook_once, hook_all_modules])
@pytest.mark.parametrize('keep, used', [('undo', True), ('undo', False), ('state', True), ('state', False),
                                        ('graph', True)])
def test_what_a_hook_takes_in_the_first_forward_alone_is_refused(hook, used, keep):
    module, taken = build(keep=keep), []
    handle = hook(module.couplings[1].f, taken)
    loss = loss_of(module)
    handle.remove()
    if used:
        loss = loss + taken[0].pow(2).sum()
    with pytest.raises(ReversibilityError, match=r'step 2 \(`couplings.1.f`, Sequential\) leaves a tensor behind'):
        loss.backward()


@pytest.mark.parametrize('keep', KEEPS)
def test_what_a_hook_takes_in_the_second_of_two_forwards_is_refused(keep):
    module, taken = build(keep=keep), {}
    handle = module.couplings[1].f.register_forward_hook(lambda m, args, out: taken.update(last=out))
    loss = loss_of(module) + loss_of(module)
    handle.remove()
    with pytest.raises(ReversibilityError, match=r'step 2 \(`couplings.1.f`, Sequential\) leaves a tensor behind'):
        (loss + taken['last'].pow(2).sum()).backward()


class OwnLeaf(nn.Module):
    """Differentiates with respect to a leaf of its own."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        with torch.enable_grad():
            y = x.detach().requires_grad_()
            return torch.autograd.grad(self.linear(y).tanh().sum(), y, create_graph=True)[0]


def test_a_hook_on_a_function_with_a_leaf_of_its_own():
    def case(module):
        module.couplings[1].f.register_forward_hook(lambda *_: None)
        for _ in range(3):
            loss_of(module).backward()
        return gradients(module)

    assert_as_plain(case, OwnLeaf)


@pytest.mark.parametrize('hook', [lambda m, args, out: None, lambda m, args, out: 1.5 * out], ids=['looks', 'replaces'])
@pytest.mark.parametrize('saving', [save_on_cpu, lambda: saved_tensors_hooks(lambda x: x, lambda x: x)],
                         ids=['save_on_cpu', 'as they are'])
@pytest.mark.parametrize('make', [lambda: nn.Sequential(nn.Linear(8, 8), nn.Tanh()), OwnLeaf], ids=['Tanh', 'OwnLeaf'])
def test_a_forward_hook_within_saved_tensor_hooks(make, saving, hook):
    def case(module):
        module.couplings[1].f.register_forward_hook(hook)
        for _ in range(2):
            with saving():
                loss = loss_of(module)
            loss.backward()
        return gradients(module)

    assert_as_plain(case, make)


@pytest.mark.parametrize('keep', KEEPS)
def test_an_input_changed_in_place_is_named_although_a_hook_watches(keep):
    module = build(lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(8, 8)), keep=keep)
    module.couplings[1].f.register_forward_hook(lambda *_: None)
    with pytest.raises(ReversibilityError, match='inplace=False'):
        module(*[x.requires_grad_() for x in streams()])


class Shifted(nn.Module):
    """The gradient of its weight is that of its output."""

    def __init__(self):
        super().__init__()
        self.linear, self.shift = nn.Linear(8, 8), nn.Parameter(torch.zeros(4, 8))

    def forward(self, x):
        return self.linear(x) + self.shift


@pytest.mark.parametrize('make', [function, Shifted])
def test_gradients_that_no_hook_keeps_are_not_copied(make, monkeypatch):
    disowned, disown = [], StreamBuffers.disown
    monkeypatch.setattr(StreamBuffers, 'disown', lambda self, *args: disowned.append(args) or disown(self, *args))
    loss_of(build(make)).backward()
    assert disowned == []


class Early(BasePruningMethod):
    """A pruning method with another attribute that hooks of torch have."""
    name, PRUNING_TYPE = 'early', 'global'

    def compute_mask(self, t, default_mask):
        return default_mask.clone().index_fill_(0, torch.tensor([1]), 0)


def pruned(prunes, *amount):
    f = function()
    prunes.apply(f[1], 'weight', *amount)
    return f


@pytest.mark.filterwarnings('ignore:.*weight_norm:FutureWarning')
@pytest.mark.parametrize('make', [
    lambda: pruned(prune.L1Unstructured, .5), lambda: pruned(Early),
    lambda: nn.Sequential(weight_norm(nn.Linear(8, 8)), nn.GELU()),
    lambda: nn.Sequential(spectral_norm(nn.Linear(8, 8)), nn.GELU(), spectral_norm(nn.Linear(8, 8)))
], ids=['pruning', 'own pruning', 'weight_norm', 'spectral_norm'])
def test_hooks_of_torch_that_set_a_weight(make):
    def case(module):
        optimizer = torch.optim.SGD(module.parameters(), .1)
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(module).backward()
            optimizer.step()
        return [*gradients(module), *module.state_dict().values()]

    assert_as_plain(case, make)


class Slow(nn.Linear):

    def forward(self, x):
        time.sleep(.02)
        return super().forward(x)


@pytest.mark.filterwarnings('ignore:.*weight_norm:FutureWarning')
@pytest.mark.parametrize('keep', ['undo', 'state'])
def test_a_weight_that_a_hook_sets_is_not_replaced_while_another_thread_uses_it(keep):
    def run(**kwargs):
        f = weight_norm(Slow(8, 8))
        module = build(lambda: f, **kwargs)
        loss_of(module).backward()
        return gradients(module)

    torch.manual_seed(0)
    expected = run(reversible=False)
    torch.manual_seed(0)
    torch.testing.assert_close(run(keep=keep, overlap=True), expected, rtol=1e-9, atol=1e-12)


class Rotary(nn.Module):
    """Its table grows with the longest sequence."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.register_buffer('table', self._table(2), persistent=False)

    @staticmethod
    def _table(rows):
        return (torch.arange(rows, dtype=torch.float64)[:, None] * torch.linspace(1, .1, 8)).cos()

    def forward(self, x):
        if len(x) > len(self.table):
            self.table = self._table(len(x))
        return self.linear(x) * self.table[:len(x)]


def test_a_buffer_may_be_replaced_in_a_later_call():
    def case(module):
        for rows in (2, 4, 6):
            loss_of(module, *streams(rows)).backward()
        return gradients(module) + [coupling.f.table for coupling in module.couplings]

    assert_as_plain(case, Rotary)


class Context(nn.Module):
    """One value per channel, added to all rows."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        return self.linear(x.mean(0, keepdim=True))


class Score(nn.Module):
    """The gradient of an energy with respect to the input, as a function that asks first."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        with torch.enable_grad():
            if not x.requires_grad:
                x.requires_grad_()
            energy = self.linear(x).tanh().pow(2).sum()
            return torch.autograd.grad(energy, x, create_graph=True)[0]


@pytest.mark.parametrize('make', [Context, Score])
def test_outputs_that_broadcast_and_inputs_made_leaves(make):
    def case(module):
        for _ in range(2):
            loss_of(module, *[x.clone() for x in streams()]).backward()
        return gradients(module)

    assert_as_plain(case, make)


def test_couplings_replaced_as_a_whole_are_noticed():
    def case(module):
        loss_of(module).backward()
        module.couplings = nn.ModuleList(reversed(module.couplings[:2]))
        loss = loss_of(module)
        module.zero_grad()
        loss.backward()
        return [loss.detach(), *gradients(module)]

    assert_as_plain(case)


class Doubled(TorchFunctionMode):

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        return 2 * out if func is torch.nn.functional.gelu else out


@pytest.mark.parametrize('kwargs', [{}, dict(overlap=True)], ids=['', 'overlap'])
def test_function_modes_apply_in_both_evaluations_and_in_no_other(kwargs):
    def case(module):
        with Doubled():
            loss_of(module).backward()
        with Doubled():
            loss = loss_of(module)
        loss.backward()
        loss = loss_of(module)
        with Doubled():
            loss.backward()
        return gradients(module)

    assert_as_plain(case, **kwargs)


class Counted(nn.Module):

    def forward(self, x):
        return x * torch.arange(1, 9)  # on the default device


@pytest.mark.parametrize('keep', KEEPS)
@pytest.mark.parametrize('overlap', [False, True])
def test_the_default_device_applies_in_both_evaluations(keep, overlap):
    module = build(lambda: nn.Sequential(nn.Linear(8, 8), Counted()), keep=keep, overlap=overlap).to('meta')
    xs = [x.to('meta') for x in streams()]
    with torch.device('meta'):
        loss_of(module, *xs).backward()
    assert all(g.is_meta for g in gradients(module))


scale = ContextVar('scale', default=1)


class Scaled(nn.Module):

    def __init__(self):
        super().__init__()
        self.f = function()

    def forward(self, x):
        return self.f(x) * scale.get()


def test_context_variables_are_those_of_the_backward_also_with_overlap():
    def case(module):
        token = scale.set(2)
        loss_of(module).backward()
        scale.reset(token)
        return gradients(module)

    assert_as_plain(case, Scaled, overlap=True)


class Headed(nn.Module):

    def __init__(self, body):
        super().__init__()
        self.body, self.head = body, parametrizations.weight_norm(nn.Linear(8, 3).double())

    def forward(self, *xs):
        return [self.head(x) for x in self.body(*xs)]


class Listed(TwoStreamCoupling):
    """Its functions are children of no module."""

    def __init__(self):
        nn.Module.__init__(self)
        self.functions = [parametrizations.weight_norm(nn.Linear(8, 8)) for _ in range(2)]

    def steps(self):
        return [AdditiveStep(f, i, (1 - i, )) for i, f in enumerate(self.functions)]


def test_weights_cached_in_a_function_that_is_no_child_are_refused():
    with parametrize.cached(), pytest.raises(ReversibilityError, match='parametrize.cached'):
        ReversibleSequence([Listed()])(*[torch.ones(4, 8, requires_grad=True) for _ in range(2)])


def test_weights_cached_elsewhere():
    def case(module):
        module = Headed(module)
        with parametrize.cached():
            loss_of(module).backward()
        return gradients(module)

    assert_as_plain(case)


@pytest.mark.parametrize('keep', KEEPS)
def test_a_batch_of_gradients_is_refused(keep):
    x = streams()[0].requires_grad_()
    out = build(keep=keep)(x, x)[0]
    gradients = torch.ones(3, *out.shape, dtype=out.dtype)
    for propagate in (lambda g: torch.autograd.grad(out, x, g, retain_graph=True, is_grads_batched=True),
                      torch.func.vmap(lambda g: torch.autograd.grad(out, x, g, retain_graph=True))):
        with pytest.raises(ReversibilityError, match='cannot propagate a batch of gradients'):
            propagate(gradients)
