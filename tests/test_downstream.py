"""Other people's projects: mmrev from a wheel and from an editable install, used outside the repository."""
import json
import os
import shutil
import subprocess
from pathlib import Path

import mmdet
import pytest

from support import toy_detection
from support.commands import printed
from support.wheels import OFFLINE_PIP, environment

pytestmark = pytest.mark.subprocess

ROOT = Path(__file__).parents[1]
CONFIG = 'revbifpn/faster_rcnn_revbifpn_s0.py'


def run(*command, cwd) -> str:
    """Run a command that must succeed, without this shell's PYTHONPATH; everything that it printed."""
    variables = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    done = subprocess.run([str(part) for part in command], cwd=cwd, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, env=dict(variables, OMP_NUM_THREADS='1'), timeout=300)
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope='module', params=['wheel', 'editable'])
def python(request, tmp_path_factory):
    """The interpreter of a new environment that has mmrev itself, and all else from this one; no network."""
    if request.param == 'wheel':
        return request.getfixturevalue('installed')
    folder = tmp_path_factory.mktemp('editable')
    clone = shutil.copytree(request.getfixturevalue('source'), folder / 'clone', symlinks=True)
    interpreter = environment(folder)
    run(*OFFLINE_PIP, '--python', interpreter, 'install', '--no-deps', '--no-index', '--no-build-isolation', '-e',
        clone, cwd=folder)
    return interpreter


@pytest.fixture(scope='module')
def projects(tmp_path_factory):
    """A folder with three projects on the same images."""
    folder = tmp_path_factory.mktemp('projects')
    toy_detection.write_dataset(folder / 'data')
    text = toy_detection.config_text(folder / 'data')
    begin, model, data = (text.index(mark) for mark in ('DATA_ROOT =', 'model = dict(', 'train_dataloader ='))
    heads = ('model = dict(neck=dict(out_channels=16), rpn_head=dict(in_channels=16, feat_channels=16), roi_head=dict('
             'bbox_roi_extractor=dict(out_channels=16), bbox_head=dict(in_channels=16, fc_out_channels=32, '
             'num_classes=2)))\n')
    own_lines = text[begin:model] + heads + text[data:]
    (folder / 'inherits.py').write_text(f"_base_ = 'mmrev::{CONFIG}'\n" + own_lines)
    (folder / 'host_type.py').write_text(text)
    (folder / 'host_inherits.py').write_text(f"_base_ = __import__('mmrev').config_path('{CONFIG}')\n" + own_lines)
    return folder


def test_mmrev_is_imported_from_where_it_is_installed(python, tmp_path):
    place = Path(run(python, '-W', 'ignore', '-c', 'import mmrev; print(mmrev.__file__)', cwd=tmp_path).strip())
    clone, env = (python.parents[2] / name for name in ('clone', 'env'))
    assert (clone if clone.exists() else env) in place.parents


@pytest.mark.parametrize('python', ['editable'], indirect=True)
def test_an_editable_install_finds_the_configs(python, projects):
    assert 'No problem found' in run(python.parent / 'mmrev', 'check', 'inherits.py', cwd=projects)


@pytest.mark.parametrize('python, name', [
    ('wheel', 'inherits'), ('wheel', 'host_type'), ('wheel', 'host_inherits')], indirect=['python'])
def test_a_project_elsewhere_trains(python, projects, name):
    """``mmrev train`` on a config of mmrev; mmdet's tool with a model of mmrev, and on a config of mmrev."""
    tool = [python.parent / 'mmrev', 'train']
    if name != 'inherits':
        tool = [python, Path(mmdet.__file__).parent / '.mim' / 'tools' / 'train.py']
    output = run(*tool, f'{name}.py', '--work-dir', python.parents[2] / name, cwd=projects)
    assert "type='mmrev.RevBiFPN'" in output
    assert "default_scope = 'mmdet'" in output
    assert 'Epoch(train) [1][2/2]' in output and 'Epoch(val) [1][4/4]' in output
    assert (python.parents[2] / name / 'epoch_1.pth').is_file()
    assert ('Done.  checkpoints:' in output) == (name == 'inherits')  # the others are mmdet's own tool


LIST_CLASSES = '''
import json, sys
import mmrev
from mmengine.config import Config
from mmengine.runner import Runner


def name(thing):
    return f'{type(thing).__module__}.{type(thing).__qualname__}'


def classes(file):
    """Every class that the run of a config builds."""
    cfg = Config.fromfile(file)
    cfg.work_dir = file + '.run'
    runner = Runner.from_cfg(cfg)
    built = {f'model.{path}': name(module) for path, module in runner.model.named_modules()}
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    things = dict(optim_wrapper=runner.optim_wrapper, optimizer=runner.optim_wrapper.optimizer,
                  visualizer=runner.visualizer)
    for split in 'train', 'val', 'test':
        loop = getattr(runner, f'{split}_loop')
        loader = getattr(runner, f'{split}_dataloader')
        things.update({f'{split}.loop': loop, f'{split}.dataset': loader.dataset, f'{split}.sampler': loader.sampler,
                       f'{split}.batch_sampler': loader.batch_sampler})
        things.update({f'{split}.transform.{i}': t for i, t in enumerate(loader.dataset.pipeline.transforms)})
        metrics = loop.evaluator.metrics if split != 'train' else []
        things.update({f'{split}.metric.{i}': metric for i, metric in enumerate(metrics)})
    schedulers = runner.build_param_scheduler(runner.param_schedulers)
    things.update({f'scheduler.{i}': scheduler for i, scheduler in enumerate(schedulers)})
    things.update({f'hook.{i}': hook for i, hook in enumerate(runner.hooks)})
    things.update({f'vis_backend.{key}': value for key, value in runner.visualizer._vis_backends.items()})
    return {**built, **{key: name(thing) for key, thing in things.items()}}


json.dump([classes(file) for file in sys.argv[1:]], open('classes.json', 'w'))
'''


def test_inherited_configs_build_the_classes_of_the_direct_one(tmp_path):
    """mmengine gives inherited entries the scope of the package they come from, where a name can mean another class."""
    data = toy_detection.write_dataset(tmp_path / 'data')
    lines = ''.join(f"{split}_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root="
                    f"{str(data.parent)!r}, ann_file='annotations.json', data_prefix=dict(img='images/'), "
                    "metainfo=dict(classes=('dark', 'bright'))))\n" for split in ('train', 'val', 'test'))
    lines += ''.join(f'{split}_evaluator = dict(ann_file={str(data)!r})\n' for split in ('val', 'test'))
    files = []
    for config in ('revbifpn/faster_rcnn_revbifpn_s0.py', 'revbifpn/faster_rcnn_revbifpn_s0_digits.py'):
        for base in (repr(str(ROOT / 'configs' / config)), repr(f'mmrev::{config}'),
                     f"__import__('mmrev').config_path({config!r})"):
            files.append(f'config_{len(files)}.py')
            (tmp_path / files[-1]).write_text(f'_base_ = {base}\n{lines}')
    (tmp_path / 'list_classes.py').write_text(LIST_CLASSES)
    printed('python', tmp_path / 'list_classes.py', *files, cwd=tmp_path)
    classes = json.loads((tmp_path / 'classes.json').read_text())
    coco, *inherited_coco, digits, same_digits, path_digits = classes
    assert inherited_coco == [coco, coco] and [same_digits, path_digits] == [digits, digits]
    for direct in (coco, digits):
        assert direct['model.backbone'] == 'mmrev.models.backbones.revbifpn.RevBiFPN'
        assert direct['train.dataset'].startswith(('mmdet.', 'mmrev.'))
        assert {'mmdet.datasets.transforms.loading.LoadAnnotations', 'mmdet.evaluation.metrics.coco_metric.CocoMetric',
                'mmdet.datasets.transforms.formatting.PackDetInputs'} <= set(direct.values())
