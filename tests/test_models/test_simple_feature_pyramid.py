import pytest
import torch

from mmrev.registry import MODELS


def pyramid(**kwargs):
    return MODELS.build(dict(type='mmrev.SimpleFeaturePyramid', **{'in_channels': [16], 'out_channels': 8, **kwargs}))


@pytest.mark.parametrize('scales, num_outs, sides', [
    ((4, 2, 1, 0.5), 5, (24, 12, 6, 3, 2)),
    ((2, 1, 0.5), 3, (12, 6, 3)),
    ((1, ), 2, (6, 3)),
])
def test_shapes_follow_scales(scales, num_outs, sides):
    outputs = pyramid(scales=scales, num_outs=num_outs)([torch.randn(2, 16, 6, 6)])
    assert [tuple(x.shape) for x in outputs] == [(2, 8, side, side) for side in sides]


def test_every_level_is_normalized_over_its_channels_and_reaches_every_weight():
    neck = pyramid(num_outs=4)
    neck.init_weights()
    outputs = neck([torch.randn(2, 16, 4, 4)])
    for x in outputs:
        torch.testing.assert_close(x.mean(1), torch.zeros_like(x[:, 0]), atol=1e-5, rtol=0)
        torch.testing.assert_close(x.var(1, unbiased=False), torch.ones_like(x[:, 0]), atol=1e-2, rtol=0)
    sum((x**3).sum() for x in outputs).backward()
    assert all(p.grad is not None for p in neck.parameters())


def test_without_a_norm_convolutions_have_a_bias_in_its_place():
    neck = pyramid(scales=(1, ), num_outs=1, norm_cfg=None)
    x = torch.randn(2, 16, 4, 4)
    first, second = (m for m in neck.levels[0] if isinstance(m, torch.nn.Conv2d))
    assert first.bias is not None and second.bias is not None
    torch.testing.assert_close(neck([x])[0], second(first(x)))


@pytest.mark.parametrize('kwargs, message', [
    (dict(in_channels=[8, 16]), '`in_channels` must hold the channels of one map, got '),
    (dict(scales=(8, 1)), '`scales` must be of 4, 2, 1 and 0.5, got '),
    (dict(num_outs=2), '`num_outs` must be at least the 4 of `scales`, got 2'),
])
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        pyramid(**kwargs)


def test_more_than_one_map_is_refused():
    with pytest.raises(ValueError, match='made of one map, got 2'):
        pyramid()([torch.zeros(1, 16, 4, 4)] * 2)
