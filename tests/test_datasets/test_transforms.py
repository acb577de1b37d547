"""Transforms of images, and what the ten crops of an image become."""
import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmpretrain.structures import DataSample
from torch import nn

from mmrev.datasets.transforms import LightingNoise, TenCrop
from mmrev.models.tta import AverageClsLogitTTA
from mmrev.registry import TRANSFORMS

IMAGE = np.random.RandomState(0).randint(0, 256, (11, 16, 3), dtype=np.uint8)


def test_configs_find_them():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        assert isinstance(TRANSFORMS.build(dict(type='mmrev.LightingNoise')), LightingNoise)
        assert isinstance(TRANSFORMS.build(dict(type='mmrev.TenCrop', crop_size=8)), TenCrop)


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_lighting_noise_adds_one_colour_within_the_range(dtype):
    np.random.seed(0)
    transform = LightingNoise(std=1.)
    before = IMAGE.astype(dtype)
    after = transform(dict(img=before))['img']
    change = after.astype(float) - before
    inside = ((after > 0) & (after < 255)).all(-1)
    assert after.dtype == dtype and (before == IMAGE).all() and 0 <= after.min() and after.max() <= 255
    assert np.ptp(change[inside], axis=0).max() <= 1e-4 and np.abs(change).max() > 5


def test_lighting_noise_varies_most_along_grey():
    np.random.seed(0)
    transform = LightingNoise(std=0.1)
    colours = np.stack([transform._colour() for _ in range(4000)])
    assert colours.std(0) == pytest.approx([3.2571, 3.2215, 3.1720], rel=0.05)  # BGR
    assert np.corrcoef(colours.T).min() > 0.9


def test_ten_crops_are_corners_centre_and_their_mirror_images():
    packed = TenCrop(crop_size=8)(dict(img=IMAGE, gt_label=3, img_path='a.png'))
    crops = [x.permute(1, 2, 0).numpy() for x in packed['inputs']]
    expected = [IMAGE[:8, :8], IMAGE[:8, 8:], IMAGE[3:, :8], IMAGE[3:, 8:], IMAGE[2:10, 4:12]]
    assert len(crops) == len(packed['data_samples']) == 10
    for i, crop in enumerate(expected):
        assert (crops[i] == crop).all() and (crops[5 + i] == crop[:, ::-1]).all()
    assert {int(sample.gt_label) for sample in packed['data_samples']} == {3}
    assert {sample.img_shape for sample in packed['data_samples']} == {(8, 8)}


def test_an_image_smaller_than_a_crop_is_named():
    with pytest.raises(ValueError, match='an image of 16x11 pixels has no crop of 12: enlarge `scale`'):
        TenCrop(crop_size=12)(dict(img=IMAGE))


class Scores(nn.Module):
    """Gives the scores that are its input."""

    def test_step(self, data):
        return [DataSample().set_gt_label(1).set_pred_score(scores.softmax(0)) for scores in data['inputs']]


def test_crops_are_merged_by_the_mean_of_their_scores_before_softmax():
    scores = torch.randn(10, 2, 7, generator=torch.Generator().manual_seed(0)) * 10  # ten crops of two images
    merged = AverageClsLogitTTA(Scores()).test_step(dict(inputs=list(scores)))
    for i, sample in enumerate(merged):
        torch.testing.assert_close(sample.pred_score, scores[:, i].mean(0).softmax(0))
        assert int(sample.gt_label) == 1
