"""Norm and activation in one function compute what the two compute, and keep one tensor."""
import copy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mmrev import compat
from mmrev.layers import InPlaceABN, norm_act
from mmrev.layers.fused import batch_norm
from mmrev.layers.fused.norm_act import _ACTIVATIONS, _NormAct
from mmrev.testing import PeakMemory

MODES = ['train', 'eval', 'no_affine', 'no_statistics', 'average']
SHAPES = [(6, 4), (3, 4, 5), (3, 4, 5, 6), (2, 4, 3, 3, 2)]


def make_norm(shape, mode):
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[len(shape)]
    norm = kind(4, eps=1e-3, affine=mode != 'no_affine', track_running_stats=mode != 'no_statistics',
                momentum=None if mode == 'average' else 0.1, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for t in norm.state_dict().values():
            if t.is_floating_point():
                t.normal_(generator=generator)
        if norm.running_var is not None:
            norm.running_var.abs_().add_(0.5)
        if norm.affine:
            norm.weight[0] = 0  # as an initialization of residual scales leaves it
    return norm.train(mode != 'eval')


def random(*shape, seed=1):
    return 2 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def results(function, norm, x, dz):
    x = x.clone().requires_grad_()
    z = function(x, norm)
    z.backward(dz)
    return {'z': z.detach(), 'dx': x.grad, **{k: p.grad for k, p in norm.named_parameters()},
            **dict(norm.named_buffers())}


@pytest.mark.parametrize('act', [kind() for kind in _ACTIVATIONS], ids=lambda act: type(act).__name__)
@pytest.mark.parametrize('shape', SHAPES, ids=str)
@pytest.mark.parametrize('mode', MODES)
def test_equals_the_two_modules(mode, shape, act):
    norm, x, dz = make_norm(shape, mode), random(*shape), random(*shape, seed=2)
    expected = results(lambda x, norm: act(norm(x)), copy.deepcopy(norm), x, dz)
    ours = results(lambda x, norm: norm_act(x, norm, act), norm, x, dz)
    assert ours.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(ours[name], expected[name], rtol=1e-9, atol=1e-11, msg=lambda m: f'{name}: {m}')


@pytest.mark.parametrize('mode', ['train', 'eval'])
def test_gradcheck(mode):
    norm = make_norm((3, 4, 5, 6), mode)
    x = random(3, 4, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *_: norm_act(x, norm, nn.SiLU()), (x, *norm.parameters()))


@pytest.mark.parametrize('mode', ['train', 'eval', 'no_affine'])
@pytest.mark.parametrize('act', [nn.SiLU(), nn.Hardswish(), None], ids=str)
def test_second_derivatives(act, mode, monkeypatch):
    monkeypatch.setattr(batch_norm, 'can_note', lambda x: True)  # so that a norm alone is fused as well
    monkeypatch.setattr('mmrev.layers.fused.norm_act.can_note', lambda x: True)
    norm = make_norm((3, 4, 5, 6), mode)
    x = (random(3, 4, 2, 2) / 4).requires_grad_()
    fused = act is not None or mode != 'eval' and compat.can_save_memory
    assert ('_NormAct' in norm_act(x, norm, act).grad_fn.name()) == fused
    assert torch.autograd.gradgradcheck(lambda x, *_: norm_act(x, norm, act), (x, *norm.parameters()))


def test_keeps_one_tensor():
    norm, act, x = make_norm((0, ) * 4, 'train'), nn.Hardswish(), random(8, 4, 16, 16)
    conv = nn.Conv2d(4, 4, 1, dtype=x.dtype)
    kept = []
    for function in (lambda: norm_act(conv(x), norm, act), lambda: act(norm(conv(x)))):
        with PeakMemory() as memory:
            z = function()
            kept.append(memory.current / (z.numel() * z.element_size()))
    assert kept == [pytest.approx(2, rel=0.05), pytest.approx(3, rel=0.05)]  # the output among them


@pytest.mark.parametrize('act', [kind() for kind in _ACTIVATIONS], ids=lambda act: type(act).__name__)
def test_backward_copies_no_tensor(act):
    """``hardswish_backward.out`` would compute a new tensor, too, and copy it."""
    x = torch.randn(2, 4, 3, 3, requires_grad=True)
    z = norm_act(x, nn.BatchNorm2d(4), act)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        torch.autograd.grad(z, x, torch.ones_like(z))
    names = {event.name for event in profile.events()}
    assert f'aten::{type(act).__name__.lower()}_backward' in names and 'aten::copy_' not in names


def test_parameters_alone_and_input_alone():
    norm, x, act = make_norm((0, ) * 4, 'train'), random(2, 4, 3, 3), nn.Hardswish()
    norm_act(x, norm, act).sum().backward()
    assert norm.weight.grad is not None
    norm.requires_grad_(False).zero_grad()
    x.requires_grad_()
    norm_act(x, norm, act).sum().backward()
    assert x.grad is not None and norm.weight.grad is None


def test_without_gradient_leaves_the_input_alone():
    norm, x = make_norm((0, ) * 4, 'eval'), random(2, 4, 3, 3)
    before = x.clone()
    with torch.no_grad():
        torch.testing.assert_close(norm_act(x, norm, nn.Hardswish()), nn.Hardswish()(norm(x)), rtol=0, atol=0)
    assert torch.equal(x, before)


@pytest.mark.parametrize('what', ['another norm', 'another activation', 'hook', 'global hook', 'compiler', 'half'])
def test_evaluates_what_it_does_not_know_as_it_stands(what, monkeypatch):
    norm, act, x, seen = nn.BatchNorm2d(4), nn.Hardswish(), torch.randn(2, 4, 3, 3), []
    if what == 'another norm':
        norm = nn.GroupNorm(2, 4)
    elif what == 'another activation':
        act = nn.Softplus()
    elif what == 'hook':
        norm.register_forward_hook(lambda *_: seen.append(_))
    elif what == 'global hook':
        handle = nn.modules.module.register_module_forward_hook(lambda m, *_: seen.append(m))
    elif what == 'half':
        norm, x = norm.half(), x.half()
    monkeypatch.setattr(_NormAct, 'apply', None)  # must not be reached
    function = torch.compile(norm_act, backend='eager') if what == 'compiler' else norm_act
    torch.testing.assert_close(function(x, norm, act), act(norm(x)))
    assert len(seen) == {'hook': 2, 'global hook': 4}.get(what, 0)
    if what == 'global hook':
        handle.remove()


def test_transforms_of_functions():
    norm, act = nn.BatchNorm2d(4).eval(), nn.Hardswish()
    x = torch.randn(3, 2, 4, 5, 5)
    torch.testing.assert_close(torch.func.vmap(lambda a: norm_act(a, norm, act))(x),
                               torch.stack([act(norm(a)) for a in x]))


def test_a_variance_beyond_half_precision():
    torch.manual_seed(0)
    x, dz = 300 * torch.randn(8, 4, 9, 9), torch.randn(8, 4, 9, 9)
    expected = results(lambda x, norm: nn.Hardswish()(norm(x)), nn.BatchNorm2d(4).half(), x.half(), dz.half())
    ours = results(lambda x, norm: norm_act(x, norm, nn.Hardswish()), nn.BatchNorm2d(4).half(), x.half(), dz.half())
    for name in expected:
        torch.testing.assert_close(ours[name], expected[name])


def test_half_precision_input_with_float32_parameters():
    norm, x = nn.BatchNorm2d(4), torch.randn(4, 4, 8, 8)
    dz = torch.randn(4, 4, 8, 8).bfloat16()
    expected = results(lambda x, norm: nn.Hardswish()(norm(x)), copy.deepcopy(norm), x.bfloat16(), dz)
    ours = results(lambda x, norm: norm_act(x, norm, nn.Hardswish()), norm, x.bfloat16(), dz)
    for name in expected:
        assert ours[name].dtype == expected[name].dtype
        torch.testing.assert_close(ours[name], expected[name], rtol=2e-2, atol=2e-2)


def test_one_value_per_channel_is_an_error():
    with pytest.raises(ValueError, match='more than 1 value per channel'):
        norm_act(torch.randn(1, 4, 1, 1), nn.BatchNorm2d(4), nn.Hardswish())


def test_another_number_of_dimensions_is_an_error():
    with pytest.raises(ValueError, match='expected 4D input'):
        norm_act(torch.randn(2, 4, 6, requires_grad=True), nn.BatchNorm2d(4), nn.Hardswish())


class Kernels(TorchDispatchMode):
    """Notes the batch norms."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if 'batch_norm' in func._schema.name:
            self.found.append(func._schema.name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('layer', ['norm_act', 'InPlaceABN'])
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_on_a_gpu_the_kernel_is_that_of_pytorch_with_a_graph_and_without(dtype, training, layer):
    """With fake CUDA tensors. A reversible network evaluates it once with a graph and once without."""
    with FakeTensorMode(), torch.device('cuda'):
        norm, x = nn.BatchNorm2d(4).train(training), torch.randn(2, 4, 8, 8, dtype=dtype)
        abn = InPlaceABN(4).train(training)
        function = abn if layer == 'InPlaceABN' else lambda x: norm_act(x, norm, nn.SiLU())
        found = []
        for evaluate, has_graph in ((norm, True), (function, True), (function, False)):
            with Kernels() as kernels, torch.set_grad_enabled(has_graph):
                evaluate(x)
            found.append(kernels.found)
    assert found[1] == found[2] and len(found[1]) == 1
    assert found[0] == found[1] or not training
