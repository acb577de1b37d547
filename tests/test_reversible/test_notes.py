"""The second evaluation of a function takes the statistics of batch norms from the first."""
import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from mmrev import compat
from mmrev.layers import norm_act
from mmrev.layers.fused import batch_norm
from mmrev.reversible import ReversibleSequence, StreamPart, TwoStreamCoupling


@pytest.fixture(autouse=True)
def statistics_of_small_tensors_are_noted(monkeypatch):
    monkeypatch.setattr(batch_norm, '_MANY_VALUES', 1)


class Normed(nn.Module):
    """Batch norms with and without an activation; the first one is used twice, or three times if it is the only one."""

    def __init__(self, activation=nn.Hardswish, norms=2):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.first = nn.BatchNorm2d(4)
        self.second = nn.BatchNorm2d(4) if norms == 2 else self.first
        self.act = activation()

    def forward(self, x):
        x = norm_act(self.conv(x), self.first, None)
        return norm_act(norm_act(x, self.second, self.act), self.first, None)


class CheckpointedNormed(Normed):
    """The first use of the first norm is in a checkpoint."""

    def forward(self, x):
        x = checkpoint(lambda x: norm_act(self.conv(x), self.first, None), x, use_reentrant=False)
        return norm_act(norm_act(x, self.second, self.act), self.first, None)


class NestedNormed(Normed):
    """The first norm is used within a sequence of its own."""

    def __init__(self):
        super().__init__()
        self.inner = ReversibleSequence([TwoStreamCoupling(Normed(), Normed())])

    def forward(self, x):
        x = norm_act(self.conv(x), self.first, None)
        return norm_act(self.inner(x, x)[0] + self.inner(x, x)[1], self.first, None)


class SharedWithNested(Normed):
    """The first norm is used by a sequence within, and then by the function itself."""

    def __init__(self):
        super().__init__()
        self.inner = ReversibleSequence([TwoStreamCoupling(nn.Sequential(nn.Tanh(), Alone(self.first)), nn.Tanh())])

    def forward(self, x):
        return norm_act(sum(self.inner(x, x / 2 + 1)), self.first, self.act)


class Alone(nn.Module):
    """A norm and an activation."""

    def __init__(self, norm):
        super().__init__()
        self.norm, self.act = norm, nn.Hardswish()

    def forward(self, x):
        return norm_act(x, self.norm, self.act)


class ScoreOfNormed(Normed):
    """The gradient of an energy."""

    def forward(self, x):
        with torch.enable_grad():
            x = x if x.requires_grad else x.detach().requires_grad_()
            return torch.autograd.grad(super().forward(x).pow(3).mean(), x, create_graph=True)[0]


class Counter(TorchDispatchMode):
    """Counts the batch norms that compute statistics."""
    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if 'update_stats' in str(func) or 'native_batch_norm.default' in str(func) and args[5]:
            self.count += 1
        return func(*args, **(kwargs or {}))


class BackwardStrides(TorchDispatchMode):
    """The strides of gradients and inputs with which norms are differentiated."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.native_batch_norm_backward.default:
            self.found.append((args[0].stride(), args[1].stride()))
        return func(*args, **(kwargs or {}))


def network(function, reversible=True, **options):
    torch.manual_seed(0)
    couplings = [TwoStreamCoupling(function(), function()) for _ in range(3)]
    return ReversibleSequence(couplings, reversible, **options).double().train()


def inputs():
    return [x.requires_grad_() for x in torch.randn(2, 3, 4, 6, 6, dtype=torch.float64,
                                                    generator=torch.Generator().manual_seed(1))]


def steps(model, backwards=1):
    """Gradients of two training steps, with what the model's buffers are after them."""
    found = []
    for _ in range(2):
        streams = inputs()
        outputs = model(*streams)
        for i in range(backwards):
            sum((x**2).sum() for x in outputs).backward(retain_graph=i + 1 < backwards)
        found += [x.grad for x in streams] + [p.grad.clone() for p in model.parameters() if p.grad is not None]
    return found + list(model.buffers())


@pytest.mark.parametrize('function', [Normed, CheckpointedNormed, NestedNormed, SharedWithNested, ScoreOfNormed,
                                      lambda: Normed(nn.ReLU)],
                         ids=['fused', 'checkpoint', 'nested', 'shared', 'score', 'separate'])
@pytest.mark.parametrize('backwards', [1, 2])
def test_gradients_and_statistics_are_those_of_plain_autograd(function, backwards):
    plain = Normed if function is CheckpointedNormed else function  # a checkpoint in plain autograd updates them twice
    torch.testing.assert_close(steps(network(function), backwards), steps(network(plain, False), backwards),
                               rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('keep', ['undo', 'state', 'graph'])
def test_every_choice_of_what_is_kept_has_plain_gradients(keep):
    model = network(Normed, keep=[keep, 'undo', keep] * 2)
    torch.testing.assert_close(steps(model), steps(network(Normed, False)), rtol=1e-9, atol=1e-9)


def test_statistics_are_computed_once():
    model, streams = network(Normed), inputs()
    model(*streams)[0].sum().backward()  # the first step is observed
    with Counter() as counter:
        sum(x.sum() for x in model(*streams)).backward()
    assert counter.count == 6 * 3


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last], ids=str)
def test_the_gradient_of_a_part_of_a_stream_is_made_dense_for_the_norm(layout):
    parts = StreamPart(0, 0, 4), StreamPart(0, 4, 8)
    model = ReversibleSequence([TwoStreamCoupling(Normed(), Normed(), parts)]).to(memory_format=layout)
    x = torch.randn(3, 8, 6, 6).contiguous(memory_format=layout)
    with BackwardStrides() as strides:
        (model(x)[0]**2).sum().backward()
    assert len(strides.found) == 6
    assert all(dz == x for dz, x in strides.found) == compat.can_save_memory  # without, PyTorch's norm is used


@pytest.mark.parametrize('name', ['first', 'second', 'act'])
@pytest.mark.parametrize('when', ['in the forward', 'from then on', 'at its first call'])
def test_a_hook_that_looks_in_one_evaluation_alone(when, name):
    def case(reversible):
        model = network(partial(Normed, norms=1), reversible)
        steps(model)
        model.zero_grad()
        module, streams = getattr(model.couplings[1].f, name), inputs()
        handle = None
        if when != 'from then on':
            handle = module.register_forward_hook(lambda *_: handle.remove() if when == 'at its first call' else None)
        loss = sum((x**2).sum() for x in model(*streams))
        if when == 'in the forward':
            handle.remove()
        elif when == 'from then on':
            module.register_forward_hook(lambda *_: None)
        loss.backward()
        return [x.grad for x in streams] + [p.grad for p in model.parameters()] + list(model.buffers())

    torch.testing.assert_close(case(True), case(False), rtol=1e-9, atol=1e-9)


def test_two_forwards_before_their_backwards_keep_their_own_statistics():
    model, plain = network(Normed), network(Normed, False)
    for m in (model, plain):
        small, large = inputs(), [5 + 3 * x for x in inputs()]
        first, second = m(*small)[0], m(*large)[0]
        (first**2).sum().backward()
        (second**2).sum().backward()
    torch.testing.assert_close([p.grad for p in model.parameters()], [p.grad for p in plain.parameters()],
                               rtol=1e-9, atol=1e-9)


def test_a_function_that_fails_leaves_no_notes():
    model, plain = network(Normed), network(Normed, False)
    broken = copy.deepcopy(model)
    broken.couplings[1].f.second = nn.BatchNorm2d(7).double()
    with pytest.raises((RuntimeError, ValueError)):
        broken(*inputs())
    norm = model.couplings[0].f.first
    with Counter() as counter:
        norm_act(inputs()[0], norm, None)
    assert counter.count == 1
    norm.reset_running_stats()
    torch.testing.assert_close(steps(model), steps(plain), rtol=1e-9, atol=1e-9)


def test_small_tensors_take_no_notes(monkeypatch):
    monkeypatch.setattr(batch_norm, '_MANY_VALUES', 1000)
    model, streams = network(Normed), inputs()
    model(*streams)[0].sum().backward()
    with Counter() as counter:
        sum(x.sum() for x in model(*streams)).backward()
    assert counter.count == 2 * 6 * 3
