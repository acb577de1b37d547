"""The digits variants, trained to their end by the tools: minutes each. Some: `make test-slow ARGS="-k hybrid"`."""
import json
import os
import subprocess
import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import Dict

import pytest

pytest.importorskip('mmdet')
pytest.importorskip('mmpretrain')
pytestmark = [pytest.mark.subprocess, pytest.mark.training]
ROOT = Path(__file__).parents[1]
TOP1, MAP, MAP50 = 'accuracy/top1', 'coco/bbox_mAP', 'coco/bbox_mAP_50'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder with the data."""
    folder = tmp_path_factory.mktemp('digits')
    for task in ('detection', 'classification'):
        run(folder, 'converter.log', sys.executable, ROOT / 'tools/dataset_converters/digits.py', '--task', task)
    return folder


@pytest.fixture(scope='module')
def train(folder):
    """A function of a config and options that trains in the folder and returns the last metrics."""

    @lru_cache(maxsize=None)
    def trained(config: str, *options: str, processes: int = 1) -> Dict[str, float]:
        name = '-'.join([config.replace('/', '-'), *options])
        tool = [sys.executable, ROOT / 'tools/train.py'] if processes == 1 else ['bash', ROOT / 'tools/dist_train.sh']
        number = [] if processes == 1 else [processes]
        run(folder, f'{name}.log', *tool, ROOT / f'configs/{config}_digits.py', *number, '--work-dir', name,
            '--cfg-options', 'randomness.seed=0', *options)
        scalars, = (folder / name).rglob('scalars.json')
        lines = [json.loads(line) for line in scalars.read_text().splitlines()]
        return next(line for line in reversed(lines) if TOP1 in line or MAP in line)

    trained.folder = folder
    return trained


def run(folder: Path, log: str, *command, status: int = 0) -> None:
    """Run a command, with this environment's interpreter first, that must end so; what it prints goes to ``log``."""
    paths = dict(PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']]),
                 PYTHONPATH=os.pathsep.join([str(folder), os.environ.get('PYTHONPATH', '')]))
    with open(folder / log, 'w') as out:
        print(f'{folder / log}', file=sys.stderr)
        done = subprocess.run([str(part) for part in command], cwd=folder, env=dict(os.environ, **paths), stdout=out,
                              stderr=subprocess.STDOUT)
    assert done.returncode == status, (folder / log).read_text()[-3000:]


@pytest.mark.parametrize('config, processes, least', [
    ('inplace_abn/resnet18-iabn', 1, 98.), ('inplace_abn/resnet18-iabn-sync', 2, 98.),
    ('parameter_free/pf-resnet50-hybrid', 1, 98.5), ('parameter_free/pf-vit-max', 1, 95.),
    ('parameter_free/pit-max', 1, 95.), ('parameter_free/revvit-max', 1, 95.)])
def test_a_classifier_learns(train, config, processes, least):
    assert train(config, processes=processes)[TOP1] >= least


@pytest.mark.parametrize('config', ['revvit/revvit', 'revswin/revswin', 'revmvit/revmvit'])
def test_a_reversible_classifier_learns_as_well_as_a_plain_one(train, config):
    plain = train(config, 'model.backbone.reversible=False')
    assert train(config)[TOP1] >= max(95., plain[TOP1] - 1)


@pytest.mark.parametrize('config', ['revvit/faster_rcnn_revvit_sfp', 'revswin/faster_rcnn_revswin_fpn'])
def test_a_reversible_detector_learns_as_well_as_a_plain_one(train, config):
    found, plain = train(config), train(config, 'model.backbone.reversible=False')
    assert found[MAP50] >= 0.7 and abs(found[MAP] - plain[MAP]) <= 0.02


def test_r50_max_detects_as_well_as_r50(train):
    found = [train(f'parameter_free/faster_rcnn_pf-r50-{operation}_fpn')[MAP] for operation in ('max', 'conv')]
    assert found[0] >= found[1] - 0.03


STOCK_DETECTOR = """
_base_ = ['mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py']
custom_imports = dict(imports=['mmrev', 'killer'], allow_failed_imports=False)
data = dict(data_root='data/digits/', metainfo=dict(classes=tuple('0123456789')), indices=100)
pipeline = [
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True),
    dict(type='CachedMosaic', img_scale=(128, 128), pad_val=114.0, max_cached_images=8),
    dict(type='RandomResize', scale=(256, 256), ratio_range=(0.5, 1.5), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(128, 128)), dict(type='YOLOXHSVRandomAug'),
    dict(type='Pad', size=(128, 128), pad_val=dict(img=(114, 114, 114))), dict(type='PackDetInputs')]
model = dict(backbone=dict(init_cfg=None), bbox_head=dict(num_classes=10))
train_dataloader = dict(batch_size=4, num_workers=0, persistent_workers=False, batch_sampler=None, dataset=dict(
    ann_file='annotations/train.json', data_prefix=dict(img='train/'), pipeline=pipeline, **data))
val_dataloader, val_evaluator, val_cfg = None, None, None
test_dataloader, test_evaluator, test_cfg = None, None, None
train_cfg = dict(max_epochs=2, dynamic_intervals=None, val_interval=100)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=1))
randomness = dict(seed=0)
custom_hooks = [dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.0002)]
"""
KILLER = """
import os, signal
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class Killer(Hook):
    priority = 'LOWEST'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 30:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_stock_detector_trains_and_resumes_the_same_with_save_memory(folder):
    import torch
    (folder / 'killer.py').write_text(KILLER)
    results = {}
    for name, hooks in (('plain', ''), ('saving', "custom_hooks += [dict(type='mmrev.SaveMemoryHook')]\n")):
        killer = "custom_hooks += [dict(type='Killer')]\n"
        (folder / f'{name}.py').write_text(STOCK_DETECTOR + hooks)
        (folder / f'{name}_killed.py').write_text(STOCK_DETECTOR + hooks + killer)
        train = [sys.executable, ROOT / 'tools/train.py']
        run(folder, f'{name}.log', *train, f'{name}.py', '--work-dir', name)
        run(folder, f'{name}_killed.log', *train, f'{name}_killed.py', '--work-dir', f'{name}_killed', status=-9)
        run(folder, f'{name}_resumed.log', *train, f'{name}.py', '--work-dir', f'{name}_killed', '--resume')
        losses = [[json.loads(line)['loss'] for line in file.read_text().splitlines()]
                  for file in sorted((folder / name).rglob('scalars.json'))]
        states = [torch.load(folder / run / 'epoch_2.pth', weights_only=False) for run in (name, f'{name}_killed')]
        results[name] = losses, [state[part] for state in states for part in ('state_dict', 'ema_state_dict')]
    (plain, states), (saving, others) = results.values()
    assert plain == saving and len(plain[0]) == 50
    assert 'MiB per image' in (folder / 'saving.log').read_text()
    for ours, theirs in zip(states, others):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours) and ours.keys() == theirs.keys()


def test_a_detector_within_a_third_of_its_memory_detects_as_well_killed_and_resumed(train):
    """233.3 MiB with everything kept."""
    folder, work_dir = train.folder, train.folder / 'budget'
    command = [sys.executable, ROOT / 'tools/train.py', ROOT / 'configs/revbifpn/faster_rcnn_revbifpn_s0_digits.py',
               '--work-dir', 'budget', '--memory-budget', '77MB', '--cfg-options', 'randomness.seed=0']
    with open(folder / 'killed.log', 'w') as log:
        process = subprocess.Popen([str(part) for part in command], cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        while process.poll() is None and not (work_dir / 'epoch_1.pth').is_file():
            time.sleep(1)
        process.kill()
        process.wait()
    plan = (work_dir / 'memory_plan.json').read_text()
    run(folder, 'resumed.log', *command, '--resume')
    assert (work_dir / 'memory_plan.json').read_text() == plan
    logs = [path.read_text() for path in work_dir.rglob('2*.log')]
    assert len(logs) == 2 and all('MemoryBudgetHook: peak' in log for log in logs)
    assert not any('WARNING - MemoryBudgetHook' in log for log in logs)
    scalars = max(work_dir.rglob('scalars.json'))
    found = next(line for line in reversed(list(map(json.loads, scalars.read_text().splitlines()))) if MAP in line)
    assert abs(found[MAP] - train('revbifpn/faster_rcnn_revbifpn_s0')[MAP]) <= 0.02
