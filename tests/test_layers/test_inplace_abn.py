"""InPlace-ABN computes what batch normalization and an activation compute, in every mode."""
import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import mmrev.layers.inplace_abn.function as function
from mmrev.layers import ABN, InPlaceABN, InPlaceABNSync
from mmrev.layers.inplace_abn import abn, inplace_abn, inplace_abn_sync
from mmrev.reversible import ReversibleSequence, TwoStreamCoupling
from mmrev.testing import assert_same_gradients
from support.layers import filled, gradients, random

ACTIVATIONS = {'leaky_relu': nn.LeakyReLU(0.01), 'elu': nn.ELU(), 'identity': nn.Identity(), 'relu': nn.ReLU()}
SHAPES = [(6, 4), (3, 4, 5), (3, 4, 5, 6), (2, 4, 3, 3, 2)]
MODES = ['train', 'eval', 'norm_eval', 'no_statistics', 'no_affine', 'no_affine_eval']
CASES = [(a, m) for a in ACTIVATIONS for m in MODES if a != 'relu' or m.endswith('eval')]  # relu: frozen alone


def make(kind, activation, mode, **kwargs):
    layer = kind(4, affine='no_affine' not in mode, track_running_stats=mode != 'no_statistics', activation=activation,
                 **kwargs)
    filled(layer.double()).train(mode not in ('eval', 'no_affine_eval'))
    if mode == 'norm_eval':
        layer.statistics.eval()
    return layer


def assert_equal(ours, expected, rtol=1e-9, atol=1e-11):
    assert ours.keys() == expected.keys()
    for key in expected:
        torch.testing.assert_close(ours[key], expected[key], rtol=rtol, atol=atol, msg=lambda m: f'{key}: {m}')


@pytest.mark.parametrize('activation, mode', CASES)
def test_gradcheck_in_every_mode(activation, mode, backward_way):
    layer = make(InPlaceABN, activation, mode)
    x, names = random(2, 4, 3, 2).requires_grad_(), [name for name, _ in layer.named_parameters()]

    def run(x, *parameters):
        return torch.func.functional_call(layer, dict(zip(names, parameters)), x)

    assert torch.autograd.gradcheck(run, (x, *layer.parameters()))


@pytest.mark.parametrize('shape', SHAPES, ids=len)
@pytest.mark.parametrize('activation, mode', CASES)
def test_equals_the_reference_in_outputs_gradients_and_statistics(activation, mode, shape, backward_way):
    ours, reference = (make(kind, activation, mode) for kind in (InPlaceABN, ABN))
    x, dz = random(*shape), random(*shape, seed=2)
    assert_equal(gradients(ours, x, dz), gradients(reference, x, dz))


@pytest.mark.parametrize('kind', [ABN, InPlaceABN, InPlaceABNSync])
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('activation', ['leaky_relu', 'elu', 'identity'])
def test_equals_batchnorm_and_activation(kind, activation, training):
    layer = filled(kind(4, activation=activation).double()).train(training)
    norm = nn.BatchNorm2d(4).double().train(training)
    norm.load_state_dict(layer.state_dict())
    with torch.no_grad():
        norm.weight.abs_().add_(layer.eps)
    x, dz = random(3, 4, 5, 6), random(3, 4, 5, 6, seed=2)
    expected = gradients(nn.Sequential(norm, ACTIVATIONS[activation]), x, dz)
    expected = {key.removeprefix('0.'): value for key, value in expected.items()}
    expected['weight'] = expected['weight'] * layer.weight.detach().sign()  # of |weight|
    assert_equal(gradients(layer, x, dz), expected)


@pytest.mark.parametrize('function_', [abn, inplace_abn, inplace_abn_sync])
def test_functional_forms_equal_batch_norm_and_leaky_relu(function_):
    x, mean, var = random(3, 4, 5), torch.zeros(4).double(), torch.ones(4).double()
    z = function_(x, None, None, mean, var, momentum=0.3)
    mean_too, var_too = torch.zeros_like(mean), torch.ones_like(var)
    expected = F.leaky_relu(F.batch_norm(x, mean_too, var_too, training=True, momentum=0.3))
    assert_equal({'z': z, 'mean': mean, 'var': var}, {'z': expected, 'mean': mean_too, 'var': var_too})


@pytest.mark.parametrize('kind', [ABN, InPlaceABN])
def test_a_weight_of_zero_can_grow(kind):
    layer = kind(4)
    nn.init.zeros_(layer.weight)
    layer(random(3, 4, dtype=torch.float32)).square().sum().backward()
    positive = kind(4)
    nn.init.constant_(positive.weight, 1e-12)
    positive(random(3, 4, dtype=torch.float32)).square().sum().backward()
    torch.testing.assert_close(layer.weight.grad, positive.weight.grad)
    assert layer.weight.grad.abs().min() > 0


@pytest.mark.parametrize('frozen', ['weight', 'bias', 'input', 'weight bias', 'input weight', 'input bias'])
@pytest.mark.parametrize('mode', ['train', 'eval'])
def test_gradients_of_what_is_not_frozen(frozen, mode, backward_way):
    found = []
    for kind in (InPlaceABN, ABN):
        layer, x = make(kind, 'leaky_relu', mode), random(3, 4, 5).requires_grad_('input' not in frozen)
        for name, p in layer.named_parameters():
            p.requires_grad_(name not in frozen)
        layer(x).backward(random(3, 4, 5, seed=2))
        found.append({name: t.grad for name, t in [('x', x), *layer.named_parameters()]})
    assert {k for k, g in found[0].items() if g is not None} == {k for k, g in found[1].items() if g is not None}
    assert_equal(*({k: g for k, g in f.items() if g is not None} for f in found))


@pytest.mark.parametrize('shape, memory_format', [((3, 4, 5, 6), torch.channels_last),
                                                  ((2, 4, 3, 3, 2), torch.channels_last_3d)])
@pytest.mark.parametrize('activation, mode', [('elu', 'train'), ('leaky_relu', 'train'), ('relu', 'eval')])
def test_memory_format_is_kept(shape, memory_format, activation, mode, backward_way):
    ours, reference = (make(kind, activation, mode) for kind in (InPlaceABN, ABN))
    x, dz = random(*shape).contiguous(memory_format=memory_format), random(*shape, seed=2)
    found = gradients(ours, x, dz)
    assert found['z'].is_contiguous(memory_format=memory_format)
    assert found['dx'].is_contiguous(memory_format=memory_format)
    assert_equal(found, gradients(reference, x, dz))


@pytest.mark.parametrize('shape, most', [
    ((32, 64, 112, 112), 2), ((32, 256, 56, 56), 2), ((32, 512, 28, 28), 1), ((32, 2048, 7, 7), 1),
    ((1, 256, 200, 336), 2), ((128, 256, 56, 56), 8)
])
def test_on_a_gpu_blocks_are_large_and_consist_of_samples(shape, most):
    """With fake CUDA tensors: of ResNet-50's layers, in training on ImageNet and COCO; ten kernels for each block."""
    with FakeTensorMode():
        z = torch.empty(shape, device='cuda')
        blocks = list(function._blocks(z))
    assert 1 <= len(blocks) <= most
    assert all(block.channels == slice(None) for block in blocks) or shape[0] == 1


def test_a_forecast_of_a_large_image_takes_few_blocks():
    """Of WiderResNet-38's last layer on 1024x2048 pixels, which are 512 blocks in arithmetic."""
    with FakeTensorMode():
        assert len(list(function._blocks(torch.empty(1, 4096, 128, 256)))) == 8


@pytest.mark.parametrize('block_bytes', [2**20, 64])
def test_blocks_cover_a_tensor_once(block_bytes, monkeypatch):
    monkeypatch.setitem(function.BLOCK_BYTES, 'cpu', block_bytes)
    for shape in [*SHAPES, (1, 4, 50, 1), (2, 1, 300, 7), (200, 3)]:
        for x in (torch.zeros(shape), torch.zeros(shape).transpose(1, -1).contiguous().transpose(1, -1)):
            for block in function._blocks(x):
                assert x[block.index].shape[1] == len(torch.zeros(shape[1])[block.channels])
                x[block.index] += 1
            assert (x == 1).all()


def test_what_fits_into_the_caches_of_the_threads_goes_at_once(monkeypatch):
    monkeypatch.setitem(function.SMALL_BYTES, 'cpu', 1000)
    bytes_at_once = 1000 * torch.get_num_threads()
    assert function._is_small(torch.empty(1, bytes_at_once // 4)) and not function._is_small(torch.empty(0, 4))
    assert not function._is_small(torch.empty(1, bytes_at_once // 4 + 1))


def test_cumulative_average_of_statistics():
    ours, reference = (make(kind, 'leaky_relu', 'train', momentum=None) for kind in (InPlaceABN, ABN))
    for layer in (ours, reference):
        layer.reset_running_stats()
    batches = [random(3, 4, seed=i) for i in range(3)]
    for batch in batches:
        ours(batch), reference(batch)
    torch.testing.assert_close(ours.running_mean, sum(b.mean(0) for b in batches) / 3)
    assert_equal(dict(ours.named_buffers()), dict(reference.named_buffers()))


def test_two_forwards_before_one_backward_and_a_retained_graph():
    ours, reference = (make(kind, 'elu', 'train') for kind in (InPlaceABN, ABN))
    found = []
    for layer in (ours, reference):
        x, y = random(3, 4).requires_grad_(), random(5, 4, seed=2).requires_grad_()
        a, b = layer(x), layer(y)
        loss = (a.sum() * b).square().sum()
        loss.backward(retain_graph=True)
        loss.backward()
        found.append({'x': x.grad, 'y': y.grad, **{k: p.grad for k, p in layer.named_parameters()}})
    assert_equal(*found)


def test_parameters_and_statistics_may_change_before_backward():
    for mode in ('train', 'eval'):
        layer, x = make(InPlaceABN, 'leaky_relu', mode), random(3, 4).requires_grad_()
        expected = torch.autograd.grad(layer(x).square().sum(), x)
        loss = layer(x).square().sum()
        with torch.no_grad():
            for t in layer.state_dict().values():
                t.add_(1)
        torch.testing.assert_close(torch.autograd.grad(loss, x), expected)


def test_empty_batch_leaves_statistics_alone():
    for kind in (ABN, InPlaceABN, InPlaceABNSync):
        layer, x = kind(4), torch.zeros(0, 4, 3, 3, requires_grad=True)
        layer(x).sum().backward()
        assert x.grad.shape == x.shape and not layer.weight.grad.any() and not layer.running_mean.any()
        assert (layer.running_var == 1).all()


def test_inference_is_the_same_without_a_graph():
    layer = make(InPlaceABN, 'leaky_relu', 'eval')
    x = random(3, 4, 5, 6)
    with torch.no_grad():
        z = layer(x)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), z, rtol=0, atol=0)
    torch.testing.assert_close(layer(x.requires_grad_()), z, rtol=0, atol=0)


@pytest.mark.parametrize('kind', [InPlaceABN, InPlaceABNSync])
def test_copies_and_pickles_compute_the_same(kind):
    layer = make(kind, 'elu', 'norm_eval')
    x, dz = random(3, 4), random(3, 4, seed=2)
    copies = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    expected = gradients(layer, x, dz)
    for other in copies:
        assert type(other) is kind and not other.statistics.training
        assert_equal(gradients(other, x, dz), expected)


def test_state_dict_is_that_of_batchnorm():
    layer, norm = InPlaceABN(4), nn.BatchNorm2d(4)
    assert list(layer.state_dict()) == list(norm.state_dict())
    layer.load_state_dict(filled(norm).state_dict())
    torch.testing.assert_close(layer.running_var, norm.running_var)


def test_published_checkpoints_without_a_batch_counter_load():
    for version in (None, 1, 2):
        layer = nn.Sequential(InPlaceABN(4))
        layer[0].num_batches_tracked.fill_(7)
        state = filled(nn.Sequential(nn.BatchNorm2d(4))).state_dict()
        del state['0.num_batches_tracked']
        state._metadata['0'] = {} if version is None else {'version': version}
        layer.load_state_dict(state)
        torch.testing.assert_close(layer[0].weight, state['0.weight'])
        assert layer[0].num_batches_tracked == 7


def test_works_within_the_reversible_engine(backward_way):
    def f(activation):
        return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), InPlaceABN(4, activation=activation, momentum=None),
                             nn.Conv2d(4, 4, 1))

    torch.manual_seed(0)
    network = ReversibleSequence([TwoStreamCoupling(f('leaky_relu'), f('elu')) for _ in range(3)]).double()
    streams = [random(2, 4, 5, 5, seed=s).requires_grad_() for s in (1, 2)]
    assert_same_gradients(network, *streams)


def test_checkpointing_recomputes_it():
    layer = make(InPlaceABN, 'leaky_relu', 'norm_eval')
    x, y = (random(3, 4).requires_grad_() for _ in range(2))
    torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False).square().sum().backward()
    weight, layer.weight.grad = layer.weight.grad, None
    layer(y).square().sum().backward()
    assert_equal({'x': x.grad, 'w': weight}, {'x': y.grad, 'w': layer.weight.grad})


def test_a_reversible_network_moves_running_statistics_once_and_copies_none():
    from mmrev.layers import InPlaceABN
    from mmrev.reversible import ReversibleSequence, TwoStreamCoupling
    from mmrev.testing import assert_same_gradients

    def f():
        return nn.Sequential(nn.Conv2d(4, 4, 1), InPlaceABN(4), nn.Conv2d(4, 4, 1))

    torch.manual_seed(0)
    module = ReversibleSequence([TwoStreamCoupling(f(), f()) for _ in range(2)]).double()
    streams = [torch.randn(2, 4, 5, 5, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert_same_gradients(module, *streams)
    sum(x.sum() for x in module(*streams)).backward()
    buffers = [owner[name] for function in module._plan.functions for owner, name in function.buffers]
    assert all(buffer is None for buffer in buffers)


def test_transforms_of_functions_see_operators_that_they_know():
    layer, reference = (kind(4).double().eval() for kind in (InPlaceABN, ABN))
    x, tangent = (torch.randn(3, 2, 4, 5, dtype=torch.float64) for _ in range(2))
    torch.testing.assert_close(torch.func.vmap(layer)(x), torch.stack([reference(a) for a in x]))
    ours, theirs = (torch.func.jvp(f, (x[0], ), (tangent[0], )) for f in (layer, reference))
    torch.testing.assert_close(ours, theirs)
    assert not torch.equal(ours[1], torch.zeros_like(ours[1]))
