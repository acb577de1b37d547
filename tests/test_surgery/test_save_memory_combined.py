"""`save_memory` beside other features of PyTorch: checkpointing, compilation, transforms, threads, copies."""
import copy
import pickle
import threading
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from support.saving import Calls, Swish, assert_same, block, conv, images, stage, train_once
from torch import nn
from torch.utils.checkpoint import checkpoint

import mmrev
from mmrev.surgery.recomputation import find_blocks
from mmrev.surgery.recompute.recorder import Recorder
from mmrev.testing import PeakMemory


def test_backward_may_pass_twice():
    plain = stage().double()
    saving = copy.deepcopy(plain)
    mmrev.save_memory(saving)
    for model in (plain, saving):
        out = model(images())
        out.sum().backward(retain_graph=True)
        out.square().sum().backward()
    for a, b in zip(plain.parameters(), saving.parameters()):
        assert torch.equal(a.grad, b.grad)


def test_parts_of_the_graph_may_be_asked_for_one_by_one():
    plain = stage().double()
    saving = copy.deepcopy(plain)
    mmrev.save_memory(saving)
    grads = []
    for model in (plain, saving):
        x = images().requires_grad_()
        out = model(x)
        grads.append([torch.autograd.grad(out.sum(), w, retain_graph=True)[0]
                      for w in (model.last.weight, x, model.blocks[1][0].weight, x)])
    for a, b in zip(*grads):
        assert torch.equal(a, b)


def test_two_forwards_may_come_before_one_backward():
    plain = stage().double()
    saving = copy.deepcopy(plain)
    mmrev.save_memory(saving)
    for model in (plain, saving):
        (model(images()).sum() + model(images() * 2).square().sum()).backward()
    for a, b in zip(plain.parameters(), saving.parameters()):
        assert torch.equal(a.grad, b.grad)


@pytest.mark.parametrize('act', [nn.ReLU, nn.SiLU, nn.GELU, Swish])
def test_gradients_of_gradients_are_the_same(act):
    plain = block(act()).double()
    saving = copy.deepcopy(plain)
    mmrev.save_memory(saving)
    for model in (plain, saving):
        x = images().requires_grad_()
        grad, = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        grad.square().sum().backward()
    for a, b in zip(plain.parameters(), saving.parameters()):
        if a.grad is not None:
            assert (a.grad - b.grad).abs().max() <= 1e-10 * a.grad.abs().max().clamp(min=1e-2)


def test_gradients_of_gradients_through_an_activation_in_place_are_refused():
    model = block(nn.SiLU(inplace=True)).double()
    mmrev.save_memory(model)
    x = images().requires_grad_()
    loss = model(x).square().sum()
    with pytest.raises(RuntimeError, match='no second derivatives.*use `inplace=False`'):
        torch.autograd.grad(loss, x, create_graph=True)


def test_scripted_blocks_are_no_blocks():
    model = nn.Sequential(*(torch.jit.script(block(nn.SiLU(True))) for _ in range(3)))
    assert not find_blocks(model)
    mmrev.save_memory(model, 'blocks')
    train_once(model, images(torch.float32))


@pytest.mark.parametrize('reentrant', [False, True])
def test_checkpointing_within_and_around_is_left_to_itself(reentrant):

    def within(m, x):
        x = m.head(x)
        x = checkpoint(m.body, x, use_reentrant=reentrant)
        return m.tail(F.relu(x))

    plain = Calls(within, head=block(nn.SiLU(True)), body=block(nn.SiLU(True)), tail=block(nn.ReLU(True))).double()
    saving = copy.deepcopy(plain)
    mmrev.save_memory(saving)
    assert_same(train_once(plain, images()), train_once(saving, images()))
    for model in (plain, saving):
        model.zero_grad()
    around = [lambda x, m=m: checkpoint(m, x, use_reentrant=reentrant) for m in (plain, saving)]
    for call in around:
        call(images().requires_grad_()).sum().backward()
    for a, b in zip(plain.parameters(), saving.parameters()):
        assert torch.equal(a.grad, b.grad)


def test_reversible_sequences_and_inplace_abn_within_are_the_same():
    from mmrev.layers import InPlaceABN
    from mmrev.reversible import ReversibleSequence, TwoStreamCoupling

    def within(m, x):
        a, b = m.reversible(*m.head(x).chunk(2, 1))
        return m.tail(torch.cat([a, b], 1))

    def f():
        return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU(True))

    plain = Calls(within, head=block(nn.SiLU(True)), reversible=ReversibleSequence([TwoStreamCoupling(f(), f())]),
                  tail=nn.Sequential(conv(), InPlaceABN(8), nn.Dropout(0.2), conv())).double()
    saving = copy.deepcopy(plain)
    mmrev.save_memory(saving)
    assert_same(train_once(plain, images()), train_once(saving, images()))


def test_steps_that_keep_their_graphs_save_memory_from_the_first_call_on():
    from mmrev.reversible import ReversibleSequence, TwoStreamCoupling

    def live(saving):
        sequence = ReversibleSequence([TwoStreamCoupling(block(nn.SiLU(True)), block(nn.SiLU(True)))], keep='graph')
        model = Calls(lambda m, x: sum(m.sequence(m.head(x), x)), head=conv(), sequence=sequence)
        if saving:
            mmrev.save_memory(model)
        with PeakMemory() as memory:
            out = model(torch.randn(2, 8, 64, 64))
            assert out.requires_grad
            return memory.current

    assert live(saving=True) < 0.8 * live(saving=False)


def test_state_dict_copies_and_pickles_are_those_of_the_model():
    plain = block(nn.SiLU(True))
    saving = copy.deepcopy(plain)
    report = mmrev.save_memory(saving)
    mmrev.save_memory(saving)  # once is enough
    assert len(saving._forward_pre_hooks) == 1
    assert plain.state_dict().keys() == saving.state_dict().keys()
    expected = train_once(plain, images(torch.float32))
    for copied in (copy.deepcopy(saving), pickle.loads(pickle.dumps(saving))):
        assert_same(expected, train_once(copied, images(torch.float32)), 0)
    report.remove()
    assert not saving._forward_pre_hooks and not saving._forward_hooks


@pytest.mark.parametrize('stop', [ValueError, KeyboardInterrupt])
def test_a_forward_that_fails_leaves_nothing_switched_on(stop):
    model = stage()
    mmrev.save_memory(model)
    handle = model.blocks[1][2].register_forward_pre_hook(lambda m, args: (_ for _ in ()).throw(stop()))
    with pytest.raises(stop):
        model(images(torch.float32))
    handle.remove()
    assert torch.isfinite(train_once(model, images(torch.float32))['out']).all()
    assert torch._C._autograd._top_saved_tensors_default_hooks(True) is None
    assert not torch.overrides._is_torch_function_mode_enabled()


def test_an_interrupted_forward_does_not_take_over_the_next_model():
    interrupted, other = stage(), stage()
    mmrev.save_memory(interrupted)
    report = mmrev.save_memory(other)
    interrupted.last.register_forward_pre_hook(lambda m, args: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        interrupted(images(torch.float32))
    other(images(torch.float32))
    assert report.images == 3
    assert not torch.overrides._is_torch_function_mode_enabled()


@pytest.mark.parametrize('context', [torch.no_grad, torch.inference_mode])
def test_without_gradients_nothing_is_recorded(context, monkeypatch):
    model = block(nn.SiLU(True))
    expected = copy.deepcopy(model)(images(torch.float32))
    mmrev.save_memory(model)
    monkeypatch.setattr(Recorder, '__enter__', None)
    with context():
        assert torch.equal(model(images(torch.float32)), expected)


def test_threads_do_not_disturb_each_other():
    torch.manual_seed(0)
    plain = stage().double()
    expected = train_once(copy.deepcopy(plain), images())
    inputs = [images().requires_grad_() for _ in range(3)]  # made here: threads share the random state
    results = {}

    def run(i):
        model, x = copy.deepcopy(plain), inputs[i]
        mmrev.save_memory(model)
        for _ in range(5):
            model.zero_grad()
            model(x).sum().backward()
        results[i] = model.last.weight.grad

    threads = [threading.Thread(target=run, args=(i, )) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3 and torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    assert expected['out'].shape == images().shape


@pytest.mark.parametrize('form', ['the model', 'its forward', 'a child', 'a function'])
def test_what_is_compiled_is_left_alone(form):
    torch._dynamo.reset()
    plain = nn.Sequential(block(nn.SiLU(True)), block(nn.ReLU(True))).double()
    saving = copy.deepcopy(plain)
    mmrev.save_memory(saving)
    call = saving
    if form == 'the model':
        call = torch.compile(saving, backend='aot_eager', fullgraph=True)
    elif form == 'its forward':
        saving.forward = torch.compile(saving.forward, backend='aot_eager', fullgraph=True)
    elif form == 'a child':
        saving[1] = torch.compile(saving[1], backend='aot_eager', fullgraph=True)
    else:
        saving[1].forward = torch.compile(saving[1].forward, backend='aot_eager', fullgraph=True)
    x = images()
    out = call(x)
    out.sum().backward()
    expected = plain(x)
    expected.sum().backward()
    assert (out - expected).abs().max() < 1e-12
    for a, b in zip(plain.parameters(), saving.parameters()):
        assert (a.grad - b.grad).abs().max() <= 1e-10 * max(1, a.grad.abs().max())


def test_tracing_export_and_transforms_see_the_plain_model():
    model = block(nn.SiLU())
    expected = copy.deepcopy(model).eval()
    mmrev.save_memory(model)
    model.eval()
    x = images(torch.float32)
    for form in (torch.jit.trace(model, x), torch.fx.symbolic_trace(model), torch.export.export(model, (x, )).module()):
        assert torch.allclose(form(x), expected(x), atol=1e-6)
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def loss(p, x):
        return torch.func.functional_call(model, (p, buffers), (x, )).square().sum()

    grads = torch.func.grad(loss)(parameters, x)
    expected(x).square().sum().backward()
    for name, p in expected.named_parameters():
        assert torch.allclose(grads[name], p.grad, rtol=1e-3, atol=1e-3)


def test_fake_tensors_and_the_meta_device_work():
    from torch._subclasses.fake_tensor import FakeTensorMode
    plain = stage()
    ratios = []
    for device in ('meta', 'fake'):
        if device == 'fake':
            with FakeTensorMode(allow_non_fake_inputs=True):
                model = stage()
                report = mmrev.save_memory(model)
                model(torch.empty(2, 8, 32, 32)).sum().backward()
        else:
            model = copy.deepcopy(plain).to('meta')
            report = mmrev.save_memory(model)
            model(torch.empty(2, 8, 32, 32, device='meta')).sum().backward()
        ratios.append(report.kept / report.plain)
    assert ratios[0] == pytest.approx(ratios[1], abs=0.02) and ratios[0] < 0.6


def spectral():
    return nn.utils.parametrizations.spectral_norm(conv(4, 4))


def test_blocks_are_found_without_reading_parametrized_weights():
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Sequential(spectral(), nn.BatchNorm2d(4), spectral()) for _ in range(2)])
    before = copy.deepcopy(model.state_dict())
    assert len(find_blocks(model)) == 2
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


class Recursive(nn.Module):
    """Calls itself, within checkpointing or not."""

    def __init__(self, call):
        super().__init__()
        self.block, self.call = block(nn.SiLU()), call

    def forward(self, x, depth=2):
        x = self.block(x)
        return self.call(self, x, depth - 1) if depth else x


@pytest.mark.parametrize('call', [lambda model, *args: model(*args), partial(checkpoint, use_reentrant=False)],
                         ids=['plain', 'checkpointed'])
def test_a_model_may_call_itself(call):
    torch.manual_seed(0)
    plain = Recursive(call).double()
    saving = copy.deepcopy(plain)
    mmrev.save_memory(saving)
    assert_same(train_once(plain, images()), train_once(saving, images()))
    assert torch._C._autograd._top_saved_tensors_default_hooks(True) is None
    assert not torch.overrides._is_torch_function_mode_enabled()


def test_the_batch_size_of_the_report_is_of_the_first_argument_with_one():
    class Diffusion(nn.Module):

        def __init__(self):
            super().__init__()
            self.block = block(nn.SiLU())

        def forward(self, time, x):
            return self.block(x * time)

    model = Diffusion()
    report = mmrev.save_memory(model)
    model(torch.tensor(.5), images(torch.float32))
    assert report.images == 3


class Student(nn.Module):
    """Calls another model, which is no child, within a context of PyTorch."""

    def __init__(self, other):
        super().__init__()
        self.first, self.others = block(nn.SiLU()), [other]

    def forward(self, x):
        x = self.first(x)
        with torch.device('meta'), torch.autograd.graph.saved_tensors_hooks(lambda t: t * 1, lambda t: t):
            x = self.others[0](x)
            assert torch.empty(1).is_meta
            return x.sin()


def test_a_model_may_call_another_one_that_saves_memory():
    torch.manual_seed(0)
    plain = Student(stage().double()).double()
    saving = Student(copy.deepcopy(plain.others[0]))
    saving.first = copy.deepcopy(plain.first)
    mmrev.save_memory(saving)
    mmrev.save_memory(saving.others[0])
    assert_same(train_once(plain, images()), train_once(saving, images()))
    assert torch._C._autograd._top_saved_tensors_default_hooks(True) is None
    assert not torch.overrides._is_torch_function_mode_enabled()
