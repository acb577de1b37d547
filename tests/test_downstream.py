"""Other people's projects: mmrev from a wheel and from an editable install, used outside the repository."""
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from support import toy_detection

pytestmark = pytest.mark.subprocess

ROOT = Path(__file__).parents[1]
PACKED = ('mmrev', 'configs', 'tools', 'setup.py', 'pyproject.toml', 'MANIFEST.in', 'model-index.yml', 'README.md',
          'LICENSE', 'NOTICE')
SIZE = 'revbifpn/faster_rcnn_revbifpn_s3.py'


def start(*command, cwd) -> subprocess.Popen:
    """Start a command without this shell's PYTHONPATH; what it prints is kept."""
    environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    return subprocess.Popen([str(part) for part in command], cwd=cwd, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, env=dict(environment, OMP_NUM_THREADS='1'))


def output_of(process: subprocess.Popen) -> str:
    """Everything that a process printed, which must succeed."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def run(*command, cwd) -> str:
    """Run a command that must succeed; everything that it printed."""
    return output_of(start(*command, cwd=cwd))


@pytest.fixture(scope='module', params=['wheel', 'editable'])
def python(request, tmp_path_factory):
    """The interpreter of a new environment that has mmrev itself, and all else from this one; no network."""
    folder = tmp_path_factory.mktemp(request.param)
    source = folder / 'clone'
    source.mkdir()
    for name in filter(lambda name: (ROOT / name).exists(), PACKED):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, source / name, **(dict(symlinks=True) if (ROOT / name).is_dir() else {}))
    venv.create(folder / 'env', with_pip=False, symlinks=True)
    interpreter = folder / 'env' / 'bin' / 'python'
    packages = run(interpreter, '-c', 'import sysconfig; print(sysconfig.get_paths()["purelib"])', cwd=folder).strip()
    Path(packages, 'host.pth').write_text(sysconfig.get_paths()['purelib'] + '\n')  # its .pth files are not read
    run(sys.executable, '-m', 'pip', '--python', interpreter, 'install', '--no-deps', '--no-index',
        '--no-build-isolation', *(['-e'] if request.param == 'editable' else []), source, cwd=folder)
    place = Path(run(interpreter, '-W', 'ignore', '-c', 'import mmrev; print(mmrev.__file__)', cwd=folder).strip())
    assert (source if request.param == 'editable' else Path(packages)) in place.parents
    return interpreter


@pytest.fixture(scope='module')
def projects(python, tmp_path_factory):
    """What three projects print while they train, side by side, and the folder that they are in."""
    folder = tmp_path_factory.mktemp('projects')
    toy_detection.write_dataset(folder / 'data')
    text = toy_detection.config_text(folder / 'data')
    begin, model, data = (text.index(mark) for mark in ('DATA_ROOT =', 'model = dict(', 'train_dataloader ='))
    own_lines = text[begin:model] + 'model = dict(roi_head=dict(bbox_head=dict(num_classes=2)))\n' + text[data:]
    (folder / 'inherits.py').write_text(f"_base_ = 'mmrev::{SIZE}'\n" + own_lines)
    (folder / 'host_type.py').write_text(text)
    (folder / 'host_inherits.py').write_text(f"_base_ = __import__('mmrev').config_path('{SIZE}')\n" + own_lines)
    code = 'import importlib.util as u; print(u.find_spec("mmdet").submodule_search_locations[0])'
    tool_of_mmdet = Path(run(python, '-c', code, cwd=folder).strip()) / '.mim' / 'tools' / 'train.py'
    started = dict(inherits=start(python.parent / 'mmrev', 'train', 'inherits.py', cwd=folder),
                   host_type=start(python, tool_of_mmdet, 'host_type.py', cwd=folder),
                   host_inherits=start(python, tool_of_mmdet, 'host_inherits.py', cwd=folder))
    return folder, {name: output_of(process) for name, process in started.items()}


@pytest.mark.parametrize('name, arch', [('inherits', 's3'), ('host_type', 's0'), ('host_inherits', 's3')])
def test_a_project_elsewhere_trains(projects, name, arch):
    """``mmrev train`` on a config of mmrev; mmdet's tool with a model of mmrev, and on a config of mmrev."""
    folder, outputs = projects
    assert f"arch='{arch}'" in outputs[name] and "type='mmrev.RevBiFPN'" in outputs[name]
    assert "default_scope = 'mmdet'" in outputs[name]
    assert 'Epoch(train) [1][2/2]' in outputs[name] and 'Epoch(val) [1][4/4]' in outputs[name]
    assert (folder / 'work_dirs' / name / 'epoch_1.pth').is_file()
    assert ('Done.  checkpoints:' in outputs[name]) == (name == 'inherits')  # the others are mmdet's own tool


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


print('CLASSES', json.dumps([classes(file) for file in sys.argv[1:]]))
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
    output = run(sys.executable, '-c', LIST_CLASSES, *files, cwd=tmp_path)
    coco, *inherited_coco, digits, same_digits, path_digits = json.loads(output.split('CLASSES ')[-1])
    assert inherited_coco == [coco, coco] and [same_digits, path_digits] == [digits, digits]
    for direct in (coco, digits):
        assert direct['model.backbone'] == 'mmrev.models.backbones.revbifpn.RevBiFPN'
        assert direct['train.dataset'].startswith(('mmdet.', 'mmrev.'))
        assert {'mmdet.datasets.transforms.loading.LoadAnnotations', 'mmdet.evaluation.metrics.coco_metric.CocoMetric',
                'mmdet.datasets.transforms.formatting.PackDetInputs'} <= set(direct.values())
