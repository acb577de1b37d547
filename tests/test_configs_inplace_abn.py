"""The configs of InPlace-ABN hold the published recipe, and those for digits train."""
import math
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from mmrev.apis.modes import augment_test
from mmrev.datasets.digits import DigitsSpec, render_single
from mmrev.datasets.transforms import TenCrop
from support.runs import small_run
from support.toy_detection import write_dataset

CONFIGS = Path(__file__).parents[1] / 'configs' / 'inplace_abn'
IMAGENET = sorted(path.stem for path in CONFIGS.glob('*xb*_in1k.py'))


@pytest.mark.parametrize('name', IMAGENET)
def test_the_recipe_is_the_published_one(name):
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    norm, optimizer = cfg.model.backbone.norm_cfg, cfg.optim_wrapper.optimizer
    assert (norm.activation, norm.activation_param) == ('leaky_relu', 0.01)
    assert cfg.train_cfg.max_epochs == 90 and optimizer.nesterov and optimizer.weight_decay == 1e-4
    assert optimizer.lr == (0.2 if cfg.model.backbone.type == 'mmrev.IABNResNet' else 0.1)
    scheduler, = cfg.param_scheduler
    assert (scheduler.type, scheduler.get('step_size')) == (('PolyLR', None) if 'wider' in name else ('StepLR', 30))
    assert {'mmpretrain.ColorJitter', 'mmrev.LightingNoise'} <= {step.type for step in cfg.train_pipeline}


def test_ten_crops_are_a_flag_and_their_scale_and_size_are_options():
    cfg = Config.fromfile(CONFIGS / 'resnet50-iabn-sync_8xb64_in1k.py')
    cfg.merge_from_dict({'tta_pipeline.1.scale': 352, 'tta_pipeline.2.crop_size': 320})
    augment_test(cfg)
    load, resize, crops = cfg.test_dataloader.dataset.pipeline
    assert cfg.model.type == 'mmrev.AverageClsLogitTTA' and resize.scale == 352
    assert TenCrop(crop_size=crops.crop_size).crop_size == 320


def write_digits(folder: Path) -> None:
    import cv2
    import numpy as np
    rng = np.random.default_rng(0)
    spec = DigitsSpec(task='classification', image_size=32, digit_size=(20, 25))
    for split in ('train', 'val'):
        for label in range(10):
            (folder / split / str(label)).mkdir(parents=True)
            picture = render_single(spec, rng.random((8, 8), dtype=np.float32), rng)
            cv2.imwrite(str(folder / split / str(label) / '0.png'), picture)


def run(cfg: Config) -> dict:
    """Train; the names of weights that changed, and that there was one iteration with a finite loss."""
    runner = Runner.from_cfg(cfg)
    runner.model.init_weights()
    before = {name: weight.detach().clone() for name, weight in runner.model.named_parameters()}
    runner._init_model_weights = lambda: None  # done; `before` holds these weights
    runner.train()
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    assert runner.iter == len(losses) == 1 and math.isfinite(losses[0])
    return {name for name, weight in runner.model.named_parameters() if not torch.equal(weight, before[name])}


@pytest.mark.slow
@pytest.mark.parametrize('name', ['resnet18-iabn_digits', 'resnet18-iabn-sync_digits'])
def test_a_digits_classifier_trains_and_is_tested_on_ten_crops(name, tmp_path):
    write_digits(tmp_path / 'data')
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    loader = dict(num_workers=0, persistent_workers=False, batch_size=10)
    dataset = dict(data_root=str(tmp_path / 'data'))
    cfg.merge_from_dict(dict(
        work_dir=str(tmp_path / 'run'), train_cfg=dict(max_epochs=1), param_scheduler=[], default_hooks=dict(
            checkpoint=None), train_dataloader=dict(loader, dataset=dict(times=1, dataset=dataset)),
        val_dataloader=dict(loader, dataset=dataset), test_dataloader=dict(loader, dataset=dataset),
        visualizer=dict(name=f'visualizer_{name}', vis_backends=[]), experiment_name=f'iabn_{name}'))
    init_default_scope('mmpretrain')
    changed = run(cfg)
    assert {part.split('.')[0] for part in changed} == {'backbone', 'head'} and any('bn' in part for part in changed)
    cfg.tta_model = dict(type='mmrev.AverageClsLogitTTA')
    cfg.tta_pipeline = [*cfg.test_pipeline[:2], dict(type='mmrev.TenCrop', crop_size=48)]
    augment_test(cfg)
    cfg.experiment_name, cfg.visualizer.name = f'tta_{name}', f'tta_{name}'
    cfg.train_dataloader = cfg.train_cfg = cfg.optim_wrapper = cfg.param_scheduler = cfg.auto_scale_lr = None
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    assert 0 <= Runner.from_cfg(cfg).test()['accuracy/top1'] <= 100


@pytest.mark.slow
def test_a_digits_detector_trains(tmp_path):
    write_dataset(tmp_path / 'data', num_images=2)
    cfg = Config.fromfile(CONFIGS / 'faster_rcnn_iabn-r18_fpn_digits.py')
    cfg.merge_from_dict(small_run(tmp_path))
    init_default_scope('mmdet')
    changed = run(cfg)
    assert {part.split('.')[0] for part in changed} == {'backbone', 'neck', 'rpn_head', 'roi_head'}
