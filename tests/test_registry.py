"""Entries of a config inherited from `mmrev::` carry its scope, also those of mmengine's classes."""
import subprocess
import sys

import pytest
from mmengine import registry as roots

import mmrev  # noqa: F401  registers the scope

pytestmark = pytest.mark.subprocess

FOUND_IN_MMENGINE = [
    ('LOOPS', 'EpochBasedTrainLoop'), ('OPTIM_WRAPPERS', 'OptimWrapper'), ('OPTIMIZERS', 'AdamW'),
    ('PARAM_SCHEDULERS', 'CosineAnnealingLR'), ('DATA_SAMPLERS', 'DefaultSampler'), ('VISUALIZERS', 'Visualizer'),
    ('VISBACKENDS', 'LocalVisBackend'), ('LOG_PROCESSORS', 'LogProcessor'), ('HOOKS', 'CheckpointHook'),
    ('MODEL_WRAPPERS', 'MMDistributedDataParallel'), ('METRICS', 'DumpResults')
]


@pytest.mark.parametrize('registry, name', FOUND_IN_MMENGINE)
def test_class_of_mmengine_is_found_from_the_scope_of_mmrev(registry, name):
    with getattr(roots, registry).switch_scope_and_registry('mmrev') as scoped:
        assert scoped.scope == 'mmrev' and scoped.get(name).__module__.startswith(('mmengine.', 'torch.'))


def test_other_classes_are_those_of_the_default_scope_of_the_config():
    mmseg = pytest.importorskip('mmseg.registry').MODELS
    with roots.DefaultScope.overwrite_default_scope('mmseg'), roots.MODELS.switch_scope_and_registry('mmrev') as scoped:
        assert scoped.get('CrossEntropyLoss') is mmseg.get('CrossEntropyLoss')
        assert scoped.get('RevViT').__module__.startswith('mmrev.')
    with roots.DefaultScope.overwrite_default_scope('mmdet'), \
            roots.TRANSFORMS.switch_scope_and_registry('mmrev') as scoped:
        assert scoped.get('Resize').__module__.startswith('mmdet.')


def test_looking_up_an_inherited_entry_warns_of_nothing():
    code = ('import mmrev\n'
            'from mmengine.registry import LOOPS\n'
            'with LOOPS.switch_scope_and_registry("mmrev") as scoped:\n'
            '    assert scoped.get("EpochBasedTrainLoop") is not None\n')
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    assert done.returncode == 0 and 'WARNING' not in done.stdout + done.stderr, done.stdout + done.stderr
