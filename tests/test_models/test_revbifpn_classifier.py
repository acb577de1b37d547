"""RevBiFPN's neck and classification head, and the classifiers that the configs build."""
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmpretrain.structures import DataSample
from torch import nn

from mmrev.checkpoints.families.revbifpn import convert_state_dict
from mmrev.models.heads import RevBiFPNClsHead
from mmrev.models.necks import RevBiFPNNeck
from mmrev.registry import MODELS
from mmrev.testing import assert_same_gradients, bytes_per_sample, set_reversible
from support.golden import GoldenRecord, assert_agrees

CONFIGS = Path(__file__).parents[2] / 'configs' / 'revbifpn'
NUM_PARAMS = dict(s0=3419196, s1=5112300, s2=10576528, s3=19574184, s4=48687336, s5=81998976, s6=142307972)
RESOLUTIONS = dict(s0=224, s1=256, s2=256, s3=288, s4=320, s5=352, s6=352)
CHANNELS = [8, 12, 16, 20]


def config(arch) -> Config:
    cfg = Config.fromfile(CONFIGS / f'revbifpn-{arch}_8xb128_in1k.py')
    cfg.model.data_preprocessor = cfg.data_preprocessor  # as the runner does
    return cfg


def levels(batch=3, channels=CHANNELS, size=32, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(batch, c, size // 2**i, size // 2**i, dtype=dtype, generator=generator).requires_grad_()
        for i, c in enumerate(channels)
    ]


def neck(**kwargs) -> RevBiFPNNeck:
    torch.manual_seed(0)
    return RevBiFPNNeck(CHANNELS, [6, 8, 10, 12], **kwargs).double()


def head(**kwargs) -> RevBiFPNClsHead:
    torch.manual_seed(0)
    return RevBiFPNClsHead(7, CHANNELS, feat_channels=24, **kwargs).double()


@pytest.mark.slow
@pytest.mark.parametrize('arch', ['s0', 's1'])
@pytest.mark.parametrize('reversible', [True, False])
def test_golden_record(arch, reversible):
    cfg = config(arch)
    cfg.model.head.dropout_rate = 0.
    model = set_reversible(MODELS.build(cfg.model), reversible)
    assert_agrees(model, GoldenRecord(f'revbifpn_{arch}'), convert_state_dict)


@pytest.mark.slow
@pytest.mark.parametrize('arch', NUM_PARAMS)
def test_configs_build_the_published_sizes_at_their_resolution(arch):
    cfg = config(arch)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert sum(p.numel() for p in model.parameters()) == NUM_PARAMS[arch]
    resolution = RESOLUTIONS[arch]
    assert cfg.train_dataloader.dataset.pipeline[1].scale == resolution
    for dataloader in (cfg.val_dataloader, cfg.test_dataloader):
        resize, crop = dataloader.dataset.pipeline[1:3]
        assert (resize.scale, crop.crop_size) == (int(resolution / 0.875), resolution)


def test_gradients_of_the_neck_equal_plain_autograd():
    assert_same_gradients(neck(), *levels(), forward=lambda module, *xs: module(xs))


def test_gradients_of_the_head_equal_plain_autograd_with_dropout():
    assert_same_gradients(head(dropout_rate=0.5), *levels(), forward=lambda module, *xs: module(xs))


def test_head_predicts_and_gives_a_loss_as_mmpretrain_expects():
    module = head(topk=(1, 2), cal_acc=True)
    samples = [DataSample().set_gt_label(i) for i in range(3)]
    losses = module.loss(tuple(levels()), samples)
    losses['loss'].backward()
    assert set(losses) == {'loss', 'accuracy_top-1', 'accuracy_top-2'}
    assert all(p.grad is not None for p in module.parameters())
    predictions = module.eval().predict(tuple(levels()), samples)
    assert all(p.pred_score.shape == (7, ) and 0 <= p.pred_label < 7 for p in predictions)
    assert module.pre_logits(levels()).shape == (3, 24)


def test_switch_keeps_every_activation():

    def per_image(reversible):
        parts = nn.ModuleList([RevBiFPNNeck(CHANNELS, CHANNELS, reversible=reversible),
                               RevBiFPNClsHead(7, CHANNELS, 24, reversible=reversible)])

        def step(batch):
            parts[1](parts[0](levels(batch, dtype=torch.float32))).sum().backward()

        return bytes_per_sample(step, 2, 4)

    assert per_image(True) < per_image(False) / 2


@pytest.mark.parametrize('build, message', [
    (lambda: RevBiFPNNeck([8, 8], [8]), 'an entry for each level'),
    (lambda: RevBiFPNNeck([8] * 5, [8] * 5), 'an entry for each level'),
    (lambda: RevBiFPNClsHead(7, [8] * 5), 'an entry for each of the 4 levels'),
    (lambda: RevBiFPNClsHead(0, CHANNELS), 'num_classes=0 must be a positive integer'),
    (lambda: neck()(levels()[:3]), 'expected 4 levels.*got 3'),
    (lambda: head()(levels()[:3]), 'expected 4 levels.*got 3'),
])
def test_bad_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
