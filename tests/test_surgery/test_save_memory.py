"""`save_memory`: the same function and the same gradients from less that is kept."""
import copy
import gc

import pytest
import torch
import torch.nn.functional as F
from support.saving import Calls, NETWORKS, assert_same, block, conv, images, stage, train_once
from torch import nn

import mmrev
from mmrev.surgery.recomputation import find_blocks
from mmrev.testing import PeakMemory


@pytest.mark.parametrize('name', NETWORKS)
def test_outputs_gradients_and_statistics_are_the_same_from_less_that_is_kept(name):
    torch.manual_seed(0)
    plain = NETWORKS[name]().double()
    saving = copy.deepcopy(plain)
    report = mmrev.save_memory(saving)
    assert_same(train_once(plain, images()), train_once(saving, images()))
    assert report.images == 3 and report.kept < report.plain
    plain.eval(), saving.eval()
    for model in (plain, saving):
        model.zero_grad()
    assert_same(train_once(plain, images()), train_once(saving, images()))


@pytest.mark.parametrize('name', NETWORKS)
def test_float32_has_the_bits_of_plain_training_but_for_swish(name):
    torch.manual_seed(0)
    plain = NETWORKS[name]()
    saving = copy.deepcopy(plain)
    mmrev.save_memory(saving)
    tolerance = 1e-5 if name == 'squeeze and excitation' else 0
    assert_same(train_once(plain, images(torch.float32)), train_once(saving, images(torch.float32)), tolerance)


@pytest.mark.parametrize('name', NETWORKS)
def test_autocast_to_bfloat16_is_the_same(name):
    torch.manual_seed(0)
    plain = NETWORKS[name]()
    saving = copy.deepcopy(plain)
    report = mmrev.save_memory(saving)
    tolerance = 0.03 if name == 'squeeze and excitation' else 0
    x = images(torch.float32, 32)
    assert_same(train_once(plain, x, True), train_once(saving, x, True), tolerance)
    assert report.kept < report.plain


@pytest.mark.parametrize('autocast', [False, True])
@pytest.mark.parametrize('name', NETWORKS)
def test_blocks_that_are_computed_again_have_the_same_gradients(name, autocast):
    torch.manual_seed(0)
    dtype = torch.float32 if autocast else torch.float64
    plain = nn.Sequential(conv(), nn.ReLU(True), NETWORKS[name](), nn.ReLU(True)).to(dtype)
    saving, cheap = copy.deepcopy(plain), copy.deepcopy(plain)
    report, other = mmrev.save_memory(saving, 'blocks', ['2']), mmrev.save_memory(cheap)
    x = images(dtype, 32)
    assert_same(train_once(plain, x, autocast), train_once(saving, x, autocast), 0.03 if autocast else 1e-12)
    train_once(cheap, x, autocast)
    assert report.kept < other.kept


def test_blocks_keep_their_output_alone():
    x = images(torch.float32, 32)
    report = mmrev.save_memory(model := stage(), 'blocks')
    model.blocks = nn.ModuleList(Calls(lambda m, x: F.relu(m.layers(x) + x), layers=block(nn.ReLU(), nn.Dropout(0.1)))
                                 for _ in range(5))
    model.function = lambda m, x: nn.Sequential(*m.blocks)(m.first(x))
    blocks = list(find_blocks(model))
    assert blocks == [*model.blocks]
    report.remove()
    report = mmrev.save_memory(model, 'blocks')
    with PeakMemory() as memory:
        out = model(x)
        assert report.kept < 9 * x.numel() * 4  # images, stem, 5 outputs, 5 masks of a quarter
        out.sum().backward()
    assert memory.peak < 18 * x.numel() * 4


def test_names_of_blocks_are_checked():
    with pytest.raises(ValueError, match="no 'layer1'.*blocks"):
        mmrev.save_memory(stage(), 'blocks', ['layer1'])
    with pytest.raises(ValueError, match="level='blocks'"):
        mmrev.save_memory(stage(), modules=['blocks'])


def kept_bytes(model, x):
    with PeakMemory() as memory:
        out = model(x)
    return memory.current, out


def test_what_a_tally_counts_is_what_is_alive_after_the_forward():
    model = stage()
    report = mmrev.save_memory(model)
    alive, out = kept_bytes(model, images(torch.float32, 32))
    assert abs(alive - report.kept) < 0.1 * alive
    plain = kept_bytes(stage(), images(torch.float32, 32))[0]
    assert abs(plain - report.plain) < 0.05 * plain
    assert 'MiB per image' in str(report)


def test_the_last_relu_of_residual_blocks_is_not_kept():
    x = images(torch.float32, 32)
    report = mmrev.save_memory(stage := NETWORKS['residual stage']())
    stage(x)
    per_convolution = x.numel() * 4
    assert report.kept < 8.1 * per_convolution  # the images, and what each of the 7 norms takes
    assert report.plain >= 15 * per_convolution


def test_the_sums_of_a_long_residual_stream_are_not_stored_at_once():

    def stream(m, x):
        for norm, layer in zip(m.norms, m.layers):
            x = x + layer(norm(x))
        return x

    plain = Calls(stream, norms=nn.ModuleList(nn.LayerNorm(64) for _ in range(24)),
                  layers=nn.ModuleList(nn.Linear(64, 64, bias=False) for _ in range(24)))
    saving = copy.deepcopy(plain)
    mmrev.save_memory(saving)
    x = torch.randn(256, 64)
    results = []
    for model in (plain, saving):
        with PeakMemory() as memory:
            with torch.autocast('cpu', torch.bfloat16):  # the stream is in float32, what is added is not
                out = model(x)
            kept = memory.current
            out.sum().backward()
            weights = memory.current
        results.append((kept, memory.peak - weights, model.layers[0].weight.grad))
    (plain_kept, _, expected), (kept, peak, grad) = results
    assert torch.equal(expected, grad)
    assert kept < 0.65 * plain_kept and peak < kept + 6 * x.numel() * 4


def test_nothing_is_left_behind_after_backward():
    model = stage().double()
    mmrev.save_memory(model)
    train_once(model, images())
    gc.collect()
    gc.disable()
    try:
        with PeakMemory() as memory:
            for _ in range(2):
                out = model(images())
                feature = out.detach()
                out.sum().backward(retain_graph=True)
                out.sum().backward()
                model.zero_grad()
                del out
            assert memory.current <= feature.numel() * 8 + 1024
    finally:
        gc.enable()


def test_a_detached_feature_keeps_nothing_else_alive():
    model = block(nn.ReLU()).double()[:3]
    mmrev.save_memory(model)
    with PeakMemory() as memory:
        feature = model(images()).detach()
        assert memory.current <= feature.numel() * 8 + 2048


def test_frozen_parts_and_running_statistics_are_the_same():
    plain = stage().double()
    plain.blocks[0].requires_grad_(False)
    plain.first.requires_grad_(False)
    plain.blocks[0][1].eval(), plain.blocks[2][3].eval()
    saving = copy.deepcopy(plain)
    mmrev.save_memory(saving)
    assert_same(train_once(plain, images()), train_once(saving, images()))


def test_children_that_are_called_alone_save_memory_too():
    model = nn.ModuleDict(dict(backbone=block(nn.SiLU(True)), head=conv()))
    mmrev.save_memory(model)
    x = images(torch.float32, 32)
    alive, _ = kept_bytes(model['backbone'], x)
    assert alive < 0.8 * kept_bytes(block(nn.SiLU(True)), x)[0]


def test_levels_are_named():
    with pytest.raises(ValueError, match="'cheap'"):
        mmrev.save_memory(stage(), level='cheep')
    with pytest.raises(ValueError, match='`plain`: the model has no'):
        mmrev.save_memory(stage(), plain=['nothing'])
    with pytest.raises(ValueError, match="has no 'blcoks'; it has 'blocks'"):
        mmrev.save_memory(stage(), level='blocks', modules=['blcoks'])
    with pytest.raises(TypeError, match='must be a list of names'):
        mmrev.save_memory(stage(), level='blocks', modules='blocks')


def test_a_model_without_blocks_gets_a_warning():
    with pytest.warns(UserWarning, match='finds no blocks in Sequential'):
        mmrev.save_memory(nn.Sequential(conv(), nn.ReLU()), level='blocks')


class Square(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x


class ReadsShape(nn.Module):

    def forward(self, x):
        return Square.apply(x) if x.shape else x


def test_what_an_autograd_function_stores_is_reported_as_other():
    model = ReadsShape()
    report = mmrev.save_memory(model)
    model(images(torch.float32).requires_grad_())
    assert list(report.by_function) == ['other']
