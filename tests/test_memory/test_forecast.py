"""A forecast beside a step that really runs: the same bytes, with no arithmetic."""
import copy
import json
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from torch import nn

pytest.importorskip('mmdet')
from mmengine.config import Config  # noqa: E402

import mmrev.memory.search  # noqa: E402
from mmrev.apis.modes import use_mixed_precision  # noqa: E402
from mmrev.apis.run import load_config  # noqa: E402
from mmrev.cli import main  # noqa: E402
from mmrev.memory.command import _batch, slopes  # noqa: E402
from mmrev.memory.fake import Building, FakeStep  # noqa: E402
from mmrev.memory.forecast import Counter, Forecaster  # noqa: E402
from mmrev.memory.report import as_text  # noqa: E402
from mmrev.memory.search import largest  # noqa: E402
from mmrev.memory.training import Batch, Training, default_batch  # noqa: E402
from mmrev.memory.what_if import what_if  # noqa: E402
from mmrev.problems import ProblemError  # noqa: E402
from mmrev.testing import PeakMemory  # noqa: E402

pytestmark = pytest.mark.slow

CONFIGS = Path(__file__).parents[2] / 'configs'
MIB = 2**20
SMALL_ROI = {'model.train_cfg.rpn_proposal.max_per_img': 50, 'model.train_cfg.rcnn.sampler.num': 32}
CASES = {  # config, options, batch
    'classifier': ('mmpretrain::resnet/resnet18_8xb32_in1k.py', {}, Batch(3, 64, 64)),
    'frozen': ('mmpretrain::resnet/resnet18_8xb32_in1k.py', {'model.backbone.frozen_stages': 2}, Batch(2, 64, 64)),
    'AdamW': ('mmpretrain::convnext/convnext-tiny_32xb128_in1k.py', {'model.backbone.arch': 'atto',
              'model.head.in_channels': 320}, Batch(2, 64, 64)),
    'reversible': (CONFIGS / 'revvit/revvit_digits.py', {}, Batch(4, 32, 32)),
    'InPlace-ABN': (CONFIGS / 'inplace_abn/resnet18-iabn_digits.py', {}, Batch(2, 32, 32)),
    'two stages': (CONFIGS / 'revbifpn/mask_rcnn_revbifpn_s0_digits.py', SMALL_ROI, Batch(2, 128, 160, 3)),
    'anchors': ('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', {'model.bbox_head.num_classes': 5},
                Batch(2, 96, 128, 4)),
    'dynamic assignment': ('mmdet::yolox/yolox_tiny_8xb8-300e_coco.py', {}, Batch(2, 96, 96, 3)),
    'assignment by epochs': ('mmdet::tood/tood_r50_fpn_1x_coco.py', {
        'model.backbone.depth': 18, 'model.neck.in_channels': [64, 128, 256, 512]}, Batch(2, 64, 96, 3)),
    'learned proposals': ('mmdet::queryinst/queryinst_r50_fpn_1x_coco.py', {
        'model.backbone.depth': 18, 'model.neck.in_channels': [64, 128, 256, 512],
        'model.rpn_head.num_proposals': 10, 'model.roi_head.num_stages': 2,
        'model.roi_head.stage_loss_weights': [1, 1]}, Batch(2, 64, 96, 3)),
    'deformable convolutions': ('mmdet::vfnet/vfnet_r50_fpn_1x_coco.py', {
        'model.backbone.depth': 18, 'model.neck.in_channels': [64, 128, 256, 512]}, Batch(2, 224, 256, 0)),
    'no objects': ('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', {}, Batch(2, 64, 96, 0)),
    'Hungarian assignment': ('mmdet::detr/detr_r18_8xb2-500e_coco.py', {'model.num_queries': 10}, Batch(2, 64, 96, 3)),
}


def config(name, options=None):
    cfg = load_config(str(name), copy.deepcopy(options))
    for part in (cfg.model, cfg.model.get('backbone') or {}):
        part.pop('init_cfg', None)
    if name == CASES['learned proposals'][0]:  # two of its six stages
        for key in ('bbox_head', 'mask_head'):
            cfg.model.roi_head[key] = cfg.model.roi_head[key][:2]
    return cfg


@pytest.fixture(scope='module')
def small():
    return config(*CASES['classifier'][:2])


@pytest.mark.slow
@pytest.mark.parametrize('name', CASES)
def test_a_forecast_is_what_is_counted_in_a_real_step(name):
    file, options, batch = CASES[name]
    predicted, counted = Forecaster(config(file, options))(batch), Counter(config(file, options))(batch)
    assert predicted.fixed == counted.fixed
    assert predicted.gradients == counted.gradients
    assert predicted.activations == pytest.approx(counted.activations, rel=0.01)
    assert predicted.peak == pytest.approx(counted.peak, rel=0.01)
    assert sum(predicted.kept(2).values()) == pytest.approx(sum(counted.kept(2).values()), rel=0.01)


@pytest.mark.slow
def test_a_step_with_sparse_tensors_is_counted_and_not_predicted():
    file = 'mmdet::free_anchor/freeanchor_r50_fpn_1x_coco.py'
    cfg = config(file, {'model.backbone.depth': 18, 'model.neck.in_channels': [64, 128, 256, 512]})
    batch = Batch(1, 64, 64)
    assert Counter(cfg)(batch).activations > 0
    with pytest.raises(ProblemError, match='the model makes sparse tensors'):
        Forecaster(cfg)(batch)


@pytest.mark.slow
@pytest.mark.parametrize('change', [
    dict(custom_hooks=[dict(type='mmrev.SaveMemoryHook')]), dict(custom_hooks=[dict(type='EMAHook')]),
    dict(custom_hooks=[dict(type='mmrev.InPlaceABNHook', relu='leaky')]),
    dict(optim_wrapper=dict(accumulative_counts=2)), dict(activation_checkpointing=['backbone.layer3']), 'amp',
    dict(optim_wrapper=dict(type='mmrev.OptimInBackwardWrapper', optimizer=dict(type='SGD', lr=.1)))], ids=str)
def test_what_a_config_changes_is_predicted(small, change):
    cfg, batch = copy.deepcopy(small), Batch(16, 96, 96)
    if change == 'amp':
        use_mixed_precision(cfg)
    else:
        cfg.merge_from_dict(change)
    predicted, counted, plain = Forecaster(cfg)(batch), Counter(cfg)(batch), Forecaster(small)(batch)
    assert predicted.peak == pytest.approx(counted.peak, rel=0.01)
    assert predicted.activations == pytest.approx(counted.activations, rel=0.01)
    assert predicted.peak != plain.peak  # it makes a difference


def test_what_if_predicts_each_means_and_says_why_one_is_not_possible(small):
    cfg = config(*CASES['reversible'][:2])
    rows = {row.means: row for row in what_if(cfg, Forecaster(cfg)(Batch(64, 32, 32)), use_mixed_precision, 1)}
    own = rows['as it is'].peak
    assert rows['reversible=False'].peak > 2 * own and rows['reversible=False'].macs == pytest.approx(.75, abs=.02)
    assert rows['bfloat16'].peak < own and rows['accumulation'].peak < own
    assert rows['FSDP2 over 8 processes'].peak < own
    assert rows['optimizer within backward'].peak is None
    assert 'norm of all gradients' in rows['optimizer within backward'].function


def test_weights_and_states_are_counted_as_by_hand(small):
    cfg = copy.deepcopy(small)
    cfg.optim_wrapper.optimizer = dict(type='AdamW', lr=.1)
    cfg.custom_hooks = [dict(type='EMAHook')]
    forecaster = Forecaster(cfg, processes=2)
    model = forecaster.training.model
    numbers = sum(p.numel() for p in model.parameters())
    fixed = forecaster(Batch(2, 32, 32)).fixed
    assert fixed['weights'] == 4 * numbers + sum(b.nbytes for b in model.buffers())
    assert fixed['optimizer'] == 8 * numbers + 4 * len(list(model.parameters()))  # two moments, and the step of each
    assert fixed['moving average'] == fixed['weights']
    assert fixed['buckets of DDP'] == 4 * numbers
    assert fixed['batch'] == 2 * 3 * 32 * 32


def test_a_step_of_a_hundred_gigabytes_is_predicted(small):
    forecaster = Forecaster(small)
    one, many = (forecaster(Batch(n, 224, 224)).peak for n in (1000, 4000))
    assert many > 80 * 2**30
    assert many - one == pytest.approx(3 * (one - sum(forecaster.training.fixed_bytes().values())), rel=0.05)


def test_bytes_over_a_step_are_those_that_peak_memory_counts(small):
    predicted = Forecaster(small)(Batch(2, 64, 64))
    training = Training(small)
    data = training.data(Batch(2, 64, 64))
    with PeakMemory() as memory:
        training.model.train_step(data, training.optim_wrapper)
    assert max(predicted.alive(predicted.allocations)) == pytest.approx(memory.peak, rel=0.001)


def test_parts_are_those_that_keep_the_bytes(small):
    predicted = Forecaster(small)(Batch(2, 64, 64))
    kept = predicted.kept(3)
    # a block of 64 channels at 16x16 keeps two outputs of convolutions, of norms, and the activation's where not shared
    assert kept['backbone.layer1.0'] > 4 * 64 * 2 * 16 * 16 * 3
    assert kept['backbone.layer1.0'] == pytest.approx(kept['backbone.layer1.1'], rel=0.3)
    assert sum(kept.values()) == sum(predicted.kept(1).values())
    at_peak = predicted.at_peak(1)
    assert sum(sum(parts.values()) for parts in at_peak.values()) + sum(predicted.fixed.values()) == predicted.peak


class Selecting(nn.Module):
    """Uses values of its outputs as losses do."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1000)

    def forward(self, x):
        scores = self.layer(x)[0]  # (1000, )
        decoded = scores.detach().clone()
        decoded[::2].add_(1)  # in place, through a view
        mask = decoded.sigmoid() > 0.6
        labels = scores.new_full((1000, ), -1)
        labels[mask] = 1
        assert mask.sum().item() == 500 and (labels > 0).numpy().sum() == 500
        assert mask.nonzero()[:, 0].tolist() == list(range(0, 1000, 2))
        return scores[mask]


def test_values_that_are_asked_for_agree_with_each_other():
    building = Building()
    with building:
        model = Selecting()
    building.take_values(model)
    with building.fake:
        x = torch.empty(1, 4)
    with FakeStep(model).following():
        out = model(x)
        assert out.shape == (500, ) and out.requires_grad
        out.sum().backward()
    assert model.layer.weight.grad.shape == (1000, 4)


class LearnedBoxes(nn.Module):
    def __init__(self):
        super().__init__()
        self.boxes = nn.Parameter(torch.tensor([[.5, .5, 1., 1.]]))

    def forward(self, x):
        assert (self.boxes * x.new_tensor([8., 6., 8., 6.])).tolist() == [[4., 3., 8., 6.]]
        return self.boxes


def test_a_value_that_depends_on_small_weights_is_the_true_one():
    building = Building()
    with building:
        model = LearnedBoxes()
    building.take_values(model)
    with building.fake:
        x = torch.empty(1, 4)
    with FakeStep(model, building.values).following():
        model(x).sum().backward()


@pytest.mark.parametrize('memory', [999, 1000, 5000, 123456, 10**7])
@pytest.mark.parametrize('peak', [lambda n, area: 900 + 100 * n * area // 2048,
                                  lambda n, area: max(3000 + n * area // 2048, 40 * n * area // 2048)],
                         ids=['line', 'two moments'])
def test_the_largest_batch_and_image_are_the_last_that_fit(memory, peak):
    steps = []

    def forecaster(batch):
        steps.append(batch)
        return SimpleNamespace(batch=batch, peak=peak(batch.images, batch.height * batch.width))

    found = largest(forecaster, forecaster(Batch(2, 32, 64)), memory)
    for name, fit in found.items():
        batch = fit.batch or Batch(0, 32, 64)
        larger = batch._replace(images=batch.images + 1) if name == 'batch' or not fit.batch else batch._replace(
            height=batch.height + 32, width=batch.width + 64)
        assert not fit.batch or fit.peak == forecaster(batch).peak <= memory
        if larger.images > 1 or name == 'batch':
            assert forecaster(larger).peak > memory or larger.images >= 2**14
    assert len(steps) < 45


def test_the_size_of_images_is_the_largest_of_the_training_pipeline():
    assert default_batch(load_config('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')) == Batch(2, 800, 1344)
    assert default_batch(load_config('mmpretrain::resnet/resnet18_8xb32_in1k.py')) == Batch(32, 224, 224)
    assert default_batch(load_config('mmdet::retinanet/retinanet_r50_fpn_ms-640-800-3x_coco.py'))[1:3] == (800, 1344)
    with pytest.raises(ProblemError, match='--image'):
        default_batch(Config(dict(model=dict(), train_dataloader=dict(dataset=dict(pipeline=[])))))


def test_the_text_names_the_size_that_images_are_padded_to():
    cfg = config('mmdet::retinanet/retinanet_r18_fpn_1x_coco.py', {'model.bbox_head.num_classes': 2})
    forecaster = Forecaster(cfg)
    assert as_text(forecaster(Batch(1, 60, 90, 0)), 1).startswith('1 image of 60x90, padded to 64x96: ')
    assert as_text(forecaster(Batch(1, 64, 96, 2)), 1).startswith('1 image of 64x96, 2 objects each: ')


def test_the_growth_per_object_is_known_from_images_without_objects():
    def peak(batch):
        return SimpleNamespace(batch=batch, peak=1000 + 7 * batch.objects)

    forecaster = Mock(side_effect=peak, training=SimpleNamespace(kind='mmdet'))
    for objects in (0, 3):
        assert slopes(forecaster, peak(Batch(2, 32, 32, objects)))['each object in every image'] == 7


def test_batches_have_the_masks_that_panoptic_annotations_load_by_default():
    training = Training(config('mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py', {
        'model.backbone.depth': 18, 'model.neck.in_channels': [64, 128, 256, 512]}))
    sample, = training.data(Batch(1, 64, 96, 3))['data_samples']
    assert len(sample.gt_instances.masks) == 3 and sample.gt_sem_seg.sem_seg.shape == (1, 64, 96)


def test_the_command_prints_writes_and_draws(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(mmrev.memory.search, '_MOST', 8)
    arguments = [str(CONFIGS / 'revvit/revvit_digits.py'), '--batch', '4', '--image', '32', '32', '--gpu-memory', '2GB',
                 '--json', str(tmp_path / 'a.json'), '--picture', str(tmp_path / 'a.png')]
    assert main(['memory', *arguments]) == 0
    printed = capsys.readouterr().out
    content = json.loads((tmp_path / 'a.json').read_text())
    assert f'{content["peak"] / MIB:,.1f} MiB at the peak' in printed and 'It fits into 2,048.0 MiB' in printed
    assert 'not measured' in printed and 'more for each image' in printed
    assert content['largest']['batch']['peak'] <= 2**30
    assert (tmp_path / 'a.png').stat().st_size > 10000


@pytest.mark.parametrize('arguments, words', [
    (['--gpu-memory', '12 parsecs'], '12 parsecs'),
    (['--gpu-memory', '2GB', '--margin', '3GB'], 'leaves nothing of --gpu-memory 2GB'),
    (['--image', '0', '3'], 'above 0'),
    (['--objects', '-1'], '--objects'),
    (['--cfg-options', 'model.head.in_channels=3'], 'a training step with 4 images of 32x32'),
    (['--cfg-options', 'model.backbone.type=mmrev.RevBat'], 'RevBat')])
def test_the_command_says_in_two_lines_what_is_wrong(arguments, words, capsys):
    file = str(CONFIGS / 'revvit/revvit_digits.py')
    assert main(['memory', file, '--batch', '4', '--image', '32', '32', *arguments]) == 2
    printed = capsys.readouterr().err
    assert words in printed and len(printed.strip().splitlines()) == 2


def test_images_without_objects_are_a_batch():
    assert _batch(Config(), SimpleNamespace(batch=3, objects=0, image=(32, 64))) == Batch(3, 32, 64, 0)
