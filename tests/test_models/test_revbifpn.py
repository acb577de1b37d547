"""RevBiFPN against the published implementation, and everything that a host expects of a backbone."""
import copy
import re

import pytest
import torch
from torch import nn

from mmrev.checkpoints.families.revbifpn import check_complete, convert_state_dict
from mmrev.models.backbones import RevBiFPN
from mmrev.registry import MODELS
from mmrev.testing import assert_invertible, assert_same_gradients, bytes_per_sample, set_reversible
from support.golden import GoldenRecord, assert_agrees
from support.images import image

NUM_PARAMS = dict(s0=1308750, s1=2040258, s2=4772252, s3=10574744, s4=30742248, s5=52779582, s6=98676316)
TINY = dict(channels=(48, 8, 8, 12), num_extra_stages=1, num_blocks=1)


def tiny(**kwargs) -> RevBiFPN:
    torch.manual_seed(0)
    return RevBiFPN(TINY, **kwargs)


def backbone_state_dict(published: dict) -> dict:
    return {key.removeprefix('backbone.'): value for key, value in convert_state_dict(published).items()}


@pytest.mark.slow
@pytest.mark.parametrize('arch', ['s0', 's1'])
@pytest.mark.parametrize('reversible', [True, False])
def test_golden_record(arch, reversible):
    model = MODELS.build(dict(type='mmrev.RevBiFPN', arch=arch, reversible=reversible))
    assert_agrees(model, GoldenRecord(f'revbifpn_{arch}_backbone'), backbone_state_dict)


def test_converter_refuses_a_foreign_key():
    with pytest.raises(KeyError, match='rev_stack.1.foo'):
        convert_state_dict({'rev_stack.1.foo': torch.zeros(1)})


@pytest.mark.parametrize(('lost', 'message'), [
    (r'rev_stack\.3\.', 'layer 3 of `rev_stack` is missing'),
    (r'.*rev_transform_0\.f.*dw_conv\.', 'lacks a convolution'),
    (r'.*rev_transform_0\.f.*running_var', 'running_var` is missing'),
])
def test_converter_refuses_gaps(lost, message):
    shapes = GoldenRecord('revbifpn_s0_backbone').shapes
    weights = {key: torch.empty(shape, device='meta') for key, shape in shapes.items()}
    with pytest.raises(KeyError, match=message):
        check_complete(convert_state_dict({k: value for k, value in weights.items() if not re.match(lost, k)}))


@pytest.mark.parametrize('arch', NUM_PARAMS)
def test_number_of_parameters(arch):
    with torch.device('meta'):
        model = RevBiFPN(arch)
    assert sum(p.numel() for p in model.parameters()) == NUM_PARAMS[arch]


@pytest.mark.slow
@pytest.mark.parametrize('drop_path_rate', [0., 0.5])
def test_gradients_equal_plain_autograd(drop_path_rate):
    model = tiny(drop_path_rate=drop_path_rate).double()
    assert_same_gradients(model, image(4, 64, dtype=torch.float64))
    assert_same_gradients(model, image(4, 64, dtype=torch.float64, requires_grad=True))


def test_backward_reconstructs_every_level():
    assert_invertible(tiny().double(), image(2, 64, dtype=torch.float64), tolerance=1e-10)


@pytest.mark.parametrize('size', [(33, 50), (1, 1), (100, 31)])
def test_any_size_is_padded_to_the_coarsest_stride(size):
    model = tiny().eval()
    x = image(1, *size)
    height, width = (-(-side // 32) * 32 for side in size)
    padded = torch.zeros(1, 3, height, width)
    padded[..., :size[0], :size[1]] = x
    for ours, expected in zip(model(x), model(padded)):
        assert torch.equal(ours, expected)
    assert model(x)[0].shape[2:] == (height // 4, width // 4)


def test_levels_begin_as_what_the_stem_and_their_first_function_make_of_the_image():
    model = tiny()
    model.init_weights()
    x = image(2, 64)
    stem = model._stem(x)
    torch.testing.assert_close(model(x)[0], stem)
    beginning = model.stages.couplings[0].silo.down['0_1'](stem)
    torch.testing.assert_close(model(x)[1], beginning)
    assert all(level.std() > 0.1 for level in model(x))
    plain = tiny(zero_init_residual=False)
    plain.init_weights()
    assert not torch.allclose(plain(x)[0], stem)


def test_a_second_initialisation_changes_nothing():
    model = tiny()
    model.init_weights()
    for p in model.parameters():
        nn.init.normal_(p)
    trained = copy.deepcopy(model.state_dict())
    model.init_weights()
    assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize('besides', [None, dict(type='Kaiming', layer='Conv2d')])
def test_pretrained_scales_are_not_zeroed(besides, tmp_path):
    published = tiny()
    for p in published.parameters():
        nn.init.normal_(p)
    torch.save(dict(state_dict={f'backbone.{k}': v for k, v in published.state_dict().items()}), tmp_path / 'a.pth')
    pretrained = dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'), prefix='backbone.')
    model = tiny(init_cfg=[besides, pretrained] if besides else pretrained)
    model.init_weights()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), published.parameters()))


@pytest.mark.slow
def test_other_norms_and_activations():
    model = tiny(norm_cfg=dict(type='GN', num_groups=2), act_cfg=dict(type='ReLU'))
    kinds = {type(m) for m in model.modules()}
    assert nn.GroupNorm in kinds and nn.ReLU in kinds and nn.BatchNorm2d not in kinds
    assert_same_gradients(model.double(), image(2, 64, dtype=torch.float64))
    assert not {nn.ReLU} & {type(m) for m in tiny(act_cfg=None).modules()}


@pytest.mark.slow
@pytest.mark.parametrize('norm_cfg', [dict(type='IN'), dict(type='BN', affine=False)])
def test_norms_without_weights(norm_cfg):
    model = tiny(norm_cfg=norm_cfg)
    model.init_weights()
    assert_same_gradients(model.double(), image(2, 64, dtype=torch.float64))


@pytest.mark.slow
def test_bf16_autocast_trains():
    model = tiny()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        outputs = model(image(2, 64))
    assert all(x.dtype == torch.float32 for x in outputs)
    sum((x * x).mean() for x in outputs).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_stem_keeps_every_pixel():
    """Channel (y * 4 + x) * c + i of the stem is image channel i at offset (y, x); S1 repeats channel 0."""
    model = RevBiFPN(dict(channels=(64, 8), num_extra_stages=0, kernel_sizes=(3, 3), up_kernel_sizes=(3, 3),
                          expand_ratios=(1, 1), se_ratios=(0, 0)), out_indices=(0, 1))
    x = image(1, 8, 8)
    stem = model._stem(x)
    assert stem.shape == (1, 64, 2, 2)
    for y, z, channel in [(0, 0, 0), (1, 3, 2), (3, 2, 3)]:
        assert torch.equal(stem[:, (y * 4 + z) * 4 + channel], x[:, channel % 3, y::4, z::4])


@pytest.mark.parametrize('kwargs, message', [
    (dict(arch='s9'), r"`arch` must be one of \['s0'.*got 's9'"),
    (dict(arch=dict(channels=(16, 8))), 'must have the keys'),
    (dict(arch=dict(TINY, depth=3)), 'may have'),
    (dict(arch=dict(TINY, channels=(20, 8, 8, 12))), 'multiple of 16'),
    (dict(arch='s0', out_indices=(0, 4)), r'`out_indices` must lie in \[-4, 4\), got \(0, 4\)'),
    (dict(arch='s0', in_channels=4), r'`in_channels` must lie in \[1, 3\]'),
    (dict(arch=None), '`arch` must be one of'),
    (dict(arch=dict(channels=(16, 8, 8, 8, 8), num_extra_stages=0)), '`kernel_sizes` must have an entry for each'),
    (dict(arch=dict(TINY, num_extra_stages=-1)), '`num_extra_stages` must not be negative'),
    (dict(arch=dict(TINY, channels=(48, ))), 'at least two levels'),
    (dict(arch=dict(TINY, channels=48)), 'at least two levels'),
    (dict(arch=dict(TINY, num_blocks=-3)), '`num_blocks` must not be negative'),
    (dict(arch=dict(TINY, kernel_sizes=(3, 4, 5, 5))), 'must be odd, got 4'),
    (dict(arch='s0', frozen_stages=6), r'`frozen_stages` must lie in \[-1, 5\], got 6'),
])
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        RevBiFPN(**kwargs)


def test_image_of_other_channels_is_refused():
    with pytest.raises(ValueError, match='`in_channels` = 3 channels, got 4'):
        tiny()(torch.zeros(1, 4, 32, 32))


@pytest.mark.slow
def test_memory_per_image_is_a_fraction_of_plain_autograd():

    def per_image(reversible):
        model = set_reversible(RevBiFPN('s0'), reversible)
        return bytes_per_sample(lambda batch: sum(x.sum() for x in model(image(batch, 64))).backward(), 2, 4)

    assert per_image(True) < per_image(False) / 12
