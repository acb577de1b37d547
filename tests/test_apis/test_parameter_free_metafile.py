"""What the metafile of the parameter-free networks says, held against the configs and the paper's table."""
import re
from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.registry import DefaultScope

pytest.importorskip('mmpretrain')
from mmrev.checkpoints import load_from_mmrev  # noqa: E402
from mmrev.problems import ProblemError
from mmrev.registry import MODELS  # noqa: E402

ROOT = Path(__file__).parents[2]
ENTRIES = yaml.safe_load((ROOT / 'configs/parameter_free/metafile.yml').read_text())['Models']
CLASSIFIERS = [entry for entry in ENTRIES if entry['Results'][0]['Task'] == 'Image Classification']
TOP1 = {'pf-resnet50-conv': 76.2, 'pf-resnet50-max': 74.3, 'pf-resnet50-hybrid': 77.1, 'pf-resnet50-conv-cutmix': 77.6,
        'pf-resnet50-max-longer': 75.5, 'pf-resnet50-hybrid-longer': 78.0,
        'pf-resnet50-conv-deit': 78.8, 'pf-vit-s-max-vanilla': 74.2, 'pf-vit-s-max-cutmix': 77.3, 'pf-vit-s-max': 79.8,
        'pit-s-max-vanilla': 75.7, 'pit-s-max-cutmix': 78.1, 'pit-s-max': 80.1}


@pytest.mark.parametrize('entry', CLASSIFIERS, ids=lambda entry: entry['Name'])
def test_parameters_and_operation_are_those_of_the_config(entry):
    cfg = Config.fromfile(ROOT / entry['Config'])
    assert cfg.model.backbone.operation in entry['Name']
    augments = str(cfg.model.get('train_cfg'))
    assert ('cutmix' in entry['Name']) == ('CutMix' in augments and 'Mixup' not in augments)
    assert ('deit' not in entry['Name']) or 'Mixup' in augments
    with torch.device('meta'), DefaultScope.overwrite_default_scope('mmpretrain'):
        assert sum(p.numel() for p in MODELS.build(cfg.model).parameters()) == entry['Metadata']['Parameters']


def test_accuracies_are_those_of_the_table():
    found = {re.sub('_(3rdparty|mmrev)_in1k', '', entry['Name']): entry['Results'][0]['Metrics']['Top 1 Accuracy']
             for entry in CLASSIFIERS if entry['Results'][0].get('Metrics')}
    assert found == TOP1


@pytest.mark.parametrize('entry', [entry for entry in ENTRIES if 'rcnn' in entry['Name']], ids=lambda e: e['Name'])
def test_detectors_have_the_operation_of_their_name(entry):
    cfg = Config.fromfile(ROOT / entry['Config'])
    assert f'-{cfg.model.backbone.operation}_' in entry['Name']
    assert ('mask' in entry['Name']) == ('mask_head' in cfg.model.roi_head)


def test_the_published_schedule_of_r50_hybrid():
    cfg = Config.fromfile(ROOT / 'configs/parameter_free/pf-resnet50-hybrid_4xb256_in1k.py')
    assert cfg.optim_wrapper.optimizer.lr == 0.2 and cfg.auto_scale_lr.base_batch_size == 1024
    assert cfg.optim_wrapper.optimizer.weight_decay == 1e-4 and cfg.train_cfg.max_epochs == 90
    warmup, steps = cfg.param_scheduler
    assert warmup.end == 3 and (steps.step_size, steps.gamma) == (30, 0.1)


@pytest.mark.parametrize('name', ['pf-resnet50-hybrid', 'pit-s-max'])
def test_weights_that_a_browser_alone_can_fetch_are_refused_with_their_address(name):
    with pytest.raises(ProblemError, match='(?s)drive.google.com.*mmrev convert'):
        load_from_mmrev(f'mmrev://{name}_3rdparty_in1k')
