"""Configs of segmentors: parts that fit, data and schedule that fit, and what the names promise."""
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from mmrev.apis.run import load_config
from mmrev.layers import InPlaceABNSync
from mmrev.memory.training import Training
from mmrev.registry import find

pytestmark = pytest.mark.slow

pytest.importorskip('mmseg')

CONFIGS = Path(__file__).parents[2] / 'configs'
SEGMENTORS = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.glob('*/*.py')
                    if re.match(r'(?!_).*_(ade20k|cityscapes|vistas)|fpn_revbifpn-', path.name))


SIZES = [name for name in SEGMENTORS if re.search(r'segformer_revbifpn-s[1-6]|revbifpn-s0_8xb1', name)]


@pytest.mark.parametrize('name', [name for name in SEGMENTORS if name not in SIZES])
def test_a_segmentor_is_built_and_every_weight_gets_a_gradient(name):
    """On the meta device, whose tensors have shapes and no content."""
    cfg, model = load(name)
    with torch.device('meta'):
        features = model.extract_feat(torch.empty(2, 3, 64, 128))
        heads = [model.decode_head] + ([model.auxiliary_head] if model.with_auxiliary_head else [])
        logits = [head(features) for head in heads]
        sum(x.sum() for x in logits).backward()
    without = [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert bool(without) == cfg.get('find_unused_parameters', False)
    assert {x.shape[1] for x in logits} == {head.num_classes for head in heads}


@pytest.mark.parametrize('name', SIZES)
def test_the_head_takes_the_channels_of_the_backbone_of_this_size(name):
    model = load(name)[1]
    assert tuple(model.decode_head.in_channels) == model.backbone.channels


def load(name):
    cfg = Config.fromfile(CONFIGS / name)
    init_default_scope('mmseg')
    with torch.device('meta'):
        return cfg, MODELS.build(cfg.model).train()


@pytest.mark.parametrize('name', [name for name in SEGMENTORS if '_digits' not in name])
def test_classes_crop_and_schedule_agree_and_are_those_of_the_name(name):
    cfg = Config.fromfile(CONFIGS / name)
    dataset = cfg.train_dataloader.dataset
    classes = (dataset.get('metainfo') or find(dataset.type, DATASETS, scope='mmseg').METAINFO)['classes']
    heads = [cfg.model[part] for part in ('decode_head', 'auxiliary_head') if cfg.model.get(part)]
    assert {head.num_classes for head in heads} == {len(classes)}
    crop = next(step.crop_size for step in dataset.pipeline if step.type == 'RandomCrop')
    assert tuple(cfg.model.data_preprocessor.size) == tuple(crop)
    assert '{}x{}'.format(*crop) in name and f'{round(cfg.train_cfg.max_iters / 1000)}k' in name
    assert cfg.param_scheduler[-1].end == cfg.train_cfg.max_iters


@pytest.mark.parametrize('name', ['panoptic-fpn_revbifpn-s0_8xb2-1x_coco',
                                  'mask2former_revbifpn-s0_8xb2-lsj-50e_coco-panoptic'])
def test_a_panoptic_head_of_mmdet_takes_the_levels_of_the_backbone(name):
    pytest.importorskip('mmdet')
    cfg = Config.fromfile(CONFIGS / 'revbifpn' / f'{name}.py')
    init_default_scope('mmdet')
    with torch.device('meta'):
        model = MODELS.build(cfg.model).train()
        levels = model.extract_feat(torch.empty(1, 3, 64, 64))
        if hasattr(model, 'semantic_head'):
            assert model.semantic_head(levels)['seg_preds'].shape[1] == 54
    if hasattr(model, 'panoptic_head'):
        convs = [conv.conv.in_channels for conv in model.panoptic_head.pixel_decoder.input_convs]
        convs += [conv.conv.in_channels for conv in model.panoptic_head.pixel_decoder.lateral_convs]
        assert sorted(convs) == [level.shape[1] for level in levels]


def test_the_hook_converts_every_norm_of_a_segmentor_of_mmseg():
    """Of its ResNet, whose classes are its own, and of its heads; `mmrev memory` sees them synchronized."""
    cfg = load_config('mmseg::fcn/fcn_r50-d8_4xb2-80k_cityscapes-512x1024.py', {
        'model.backbone.depth': 18, 'model.backbone.base_channels': 8, 'model.backbone.stem_channels': 8,
        'model.decode_head.in_channels': 64, 'model.decode_head.channels': 8, 'model.auxiliary_head.in_channels': 32,
        'model.auxiliary_head.channels': 8, 'custom_hooks': [dict(type='mmrev.InPlaceABNHook', relu='leaky')]})
    model = Training(cfg).model
    norms = [module for module in model.modules() if isinstance(module, _NormBase) and hasattr(module, 'activation')]
    assert len(norms) == 26 and all(isinstance(norm, InPlaceABNSync) for norm in norms)
    assert not any(isinstance(module, nn.ReLU) for module in model.modules())
