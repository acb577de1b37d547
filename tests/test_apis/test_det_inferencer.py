"""Our detectors by name in mmdet's inferencer."""
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope

from mmrev.apis import DetInferencer
from mmrev.registry import MODELS

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def scope():
    """mmdet's inferencer leaves its scope behind; restore the scope for other tests."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield


@pytest.mark.parametrize('name', ['faster_rcnn_revbifpn_s3', 'mask_rcnn_revbifpn_s0', 'Faster_RCNN_RevBiFPN_S0'])
def test_a_name_without_published_weights_is_refused(name):
    with pytest.raises(ValueError, match=f'(?s)no weights are published for `{name.lower()}`.*path of a checkpoint.*'
                       f'mmrev train mmrev::revbifpn/{name.lower()}.py'):
        DetInferencer(name, device='cpu')


def test_a_config_without_weights_is_refused():
    with pytest.raises(ValueError, match='give weights=CHECKPOINT'):
        DetInferencer(str(ROOT / 'configs/revbifpn/faster_rcnn_revbifpn_s0.py'), device='cpu')


def test_an_unknown_name_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match='faster_rcnn_revbifpn_s9 in mmdet.* of mmrev: faster_rcnn_revbifpn_s0'):
        DetInferencer('faster_rcnn_revbifpn_s9', device='cpu')


def test_a_classifier_is_refused_with_where_it_belongs():
    with pytest.raises(ValueError, match='is a classifier; use mmpretrain.inference_model'):
        DetInferencer('revbifpn-s0_3rdparty_in1k', device='cpu')


def test_the_names_of_mmdet_stay_known():
    inferencer = DetInferencer.__new__(DetInferencer)
    inferencer.scope = 'mmdet'
    cfg, weights = inferencer._load_model_from_metafile('faster-rcnn_r50_fpn_1x_coco')
    assert cfg.model.type == 'FasterRCNN' and 'faster_rcnn_r50_fpn_1x_coco' in weights


@pytest.mark.slow
def test_a_name_with_weights_of_ones_own_detects(tmp_path):
    cfg = Config.fromfile(ROOT / 'configs/revbifpn/faster_rcnn_revbifpn_s0.py')
    torch.manual_seed(0)
    detector = MODELS.build(cfg.model)
    torch.save(dict(state_dict=detector.state_dict(), meta=dict(dataset_meta=dict(classes=('a', )))),
               tmp_path / 'epoch_12.pth')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        inferencer = DetInferencer('faster_rcnn_revbifpn_s0', str(tmp_path / 'epoch_12.pth'), device='cpu',
                                   show_progress=False)
    loaded = inferencer.model.state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in detector.state_dict().items())
    result, = inferencer(np.zeros((64, 64, 3), np.uint8))['predictions']
    assert set(result) == {'labels', 'scores', 'bboxes'}


def test_weights_of_another_model_are_refused(tmp_path):
    torch.save({'state_dict': {'conv1.weight': torch.zeros(1)}}, tmp_path / 'resnet.pth')
    with pytest.raises(ValueError, match='of another model: `backbone.*is missing there'):
        DetInferencer('faster_rcnn_revbifpn_s0', str(tmp_path / 'resnet.pth'), device='cpu')
