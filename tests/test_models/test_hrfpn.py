"""HRFPN against mmdet's class of this name."""
import subprocess
import sys

import pytest
import torch
from mmcv.cnn import ConvModule
from torch import nn

from mmrev.models.necks import HRFPN
from mmrev.testing import PeakMemory

CHANNELS = [8, 6, 4, 10]


def levels(height=16, width=24, channels=CHANNELS, dtype=torch.float64, batch=2):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch, c, height >> i, width >> i, dtype=dtype, generator=generator, requires_grad=True)
            for i, c in enumerate(channels)]


def pair(channels=CHANNELS, out_channels=5, **kwargs):
    """mmdet's neck and ours, with the same weights in float64."""
    necks = pytest.importorskip('mmdet.models.necks')
    theirs, ours = (cls(channels, out_channels, **kwargs).double() for cls in (necks.HRFPN, HRFPN))
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def trained(neck, inputs):
    """Outputs, and the gradients of the inputs and of every parameter."""
    outputs = neck(inputs)
    generator = torch.Generator().manual_seed(1)
    cotangents = [torch.randn(x.shape, dtype=torch.float64, generator=generator).to(x.dtype) for x in outputs]
    gradients = torch.autograd.grad(outputs, [*inputs, *neck.parameters()], cotangents)
    return [*outputs, *gradients]


def assert_same(theirs, ours, inputs):
    expected, found = trained(theirs, inputs), trained(ours, inputs)
    assert len(expected) == len(found)
    for a, b in zip(expected, found):
        torch.testing.assert_close(b, a, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('with_cp', [False, True])
@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('num_outs', [1, 3, 5])
@pytest.mark.parametrize('pooling_type', ['AVG', 'MAX'])
def test_outputs_and_gradients_equal_those_of_mmdet(pooling_type, num_outs, stride, with_cp):
    for channels in (CHANNELS, [7]):
        theirs, ours = pair(channels, pooling_type=pooling_type, num_outs=num_outs, stride=stride)
        ours.with_cp = with_cp
        assert_same(theirs, ours, levels(channels=channels))


@pytest.mark.parametrize('pooling_type', ['AVG', 'MAX'])
def test_sides_that_are_no_multiple_of_the_pooling_lose_the_same_rim(pooling_type):
    assert_same(*pair(channels=[8], num_outs=4, pooling_type=pooling_type), levels(15, 21, channels=[8]))


def test_of_equal_maxima_the_same_one_gets_the_gradient():
    theirs, ours = pair(pooling_type='MAX')
    assert_same(theirs, ours, [torch.zeros_like(x, requires_grad=True) for x in levels()])


def test_norm_acts_on_the_sum():
    ours = HRFPN(CHANNELS, 5, num_outs=2, norm_cfg=dict(type='BN')).double()
    theirs, _ = pair(num_outs=2)
    theirs.reduction_conv = ConvModule(sum(CHANNELS), 5, 1, norm_cfg=dict(type='BN'), act_cfg=None)
    for i in range(2):
        theirs.fpn_convs[i] = ConvModule(5, 5, 3, padding=1, norm_cfg=dict(type='BN'), act_cfg=None)
    theirs.double().load_state_dict(ours.state_dict())
    assert_same(theirs, ours, levels())
    for name, buffer in theirs.named_buffers():
        torch.testing.assert_close(ours.get_buffer(name), buffer)


def test_convolution_that_is_not_linear_in_its_weight_sees_all_levels_at_once():
    theirs, ours = pair(conv_cfg=dict(type='ConvWS'))
    assert type(ours.reduction_conv.conv) is not nn.Conv2d
    assert_same(theirs, ours, levels())


def test_same_seed_gives_the_same_weights_as_in_mmdet():
    necks = pytest.importorskip('mmdet.models.necks')
    states = []
    for cls in (necks.HRFPN, HRFPN):
        torch.manual_seed(0)
        neck = cls(CHANNELS, 5)
        neck.init_weights()
        states.append(neck.state_dict())
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_bf16_autocast_trains():
    neck = HRFPN(CHANNELS, 5)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = trained(neck, levels(dtype=torch.float32))
    for a, b in zip(found, trained(neck, levels(dtype=torch.float32))):
        torch.testing.assert_close(a.float(), b, rtol=0.1, atol=0.1 * b.detach().abs().max().item())


def test_frozen_neck_passes_the_gradient_on():
    neck, inputs = HRFPN(CHANNELS, 5).double().requires_grad_(False), levels()
    sum(x.sum() for x in neck(inputs)).backward()
    assert all(bool(x.grad.any()) for x in inputs)


def test_peak_memory_falls_by_more_than_the_concatenation():
    theirs, ours = pair(channels=[32, 40, 52, 104], out_channels=64)  # a quarter of S3's
    inputs = levels(64, 96, channels=[32, 40, 52, 104])

    def peak(neck):
        with PeakMemory() as memory:
            sum(x.sum() for x in neck(inputs)).backward()
        return memory.peak

    concatenation = 2 * (32 + 40 + 52 + 104) * 64 * 96 * 8
    assert peak(ours) < peak(theirs) - concatenation


def test_checkpointing_keeps_the_outputs_alone():
    inputs = levels(64, 96)
    for with_cp in (True, False):
        neck = HRFPN(CHANNELS, 16, with_cp=with_cp).double()
        with PeakMemory() as memory:
            outputs = neck(inputs)
        made = sum(x.nbytes for x in outputs)
        assert memory.current == made if with_cp else memory.current > 1.9 * made


@pytest.mark.parametrize('kwargs, message', [
    (dict(pooling_type='avg'), "`pooling_type` must be 'AVG' or 'MAX', got 'avg'"),
    (dict(with_cp=True, norm_cfg=dict(type='BN')), '`with_cp` computes the fusion twice'),
])
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        HRFPN(CHANNELS, 5, **kwargs)


def test_another_number_of_levels_is_refused():
    with pytest.raises(ValueError, match='`in_channels` has 4 levels, got 3'):
        HRFPN(CHANNELS, 5)(levels()[:3])


@pytest.mark.subprocess
def test_neck_needs_no_mmdet():
    code = ('import sys; sys.modules["mmdet"] = None\n'
            'from mmrev.registry import MODELS\n'
            'MODELS.build(dict(type="mmrev.HRFPN", in_channels=[8, 4], out_channels=4)); print("built")\n')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith('built\n'), done.stderr
