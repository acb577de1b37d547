"""What the documents say to type: each distinct line of a shell block runs, from the file itself, in order of the page.

Lines run in forks of this process, as a user types them, in a folder that holds what the page presumes: data sets of
two images, a photo, published files. Options at their end make networks and images small and trainings one iteration
long. RevBiFPN-S0 takes the place of larger sizes, files of random weights that of downloads, and a process group of
one fork that of a launcher with its processes (test_launch.py starts those).

What cannot run, and commands in the text, are read by their programs as far as the arguments.
"""
import argparse
import itertools
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip('mmpretrain')
pytest.importorskip('mmdet')
from mmdet.datasets import CocoDataset  # noqa: E402

import mmrev.models  # noqa: E402, F401
from mmrev.apis.run import load_config  # noqa: E402
from mmrev.checkpoints import published  # noqa: E402
from mmrev.cli import COMMANDS as COMMAND_NAMES  # noqa: E402
from mmrev.cli import main  # noqa: E402
from mmrev.hooks import run_report_hook  # noqa: E402
from support import toy_detection  # noqa: E402
from support.commands import forked  # noqa: E402
from support.documents import ROOT, commands_in_text, example, shell_commands  # noqa: E402
from support.golden import GoldenRecord  # noqa: E402
from support.runs import write_masks  # noqa: E402

# What cannot run here, by its beginning, and why. Their programs take these arguments.
NOT_RUN = {
    'make': 'sets up environments, or runs all tests or figures; `make -n` says what it would run',
    'pip install': 'needs a package registry',
    'pre-commit install': 'changes the hooks of the clone',
    'python benchmarks/own_data.py': 'trains several detectors; test_configs.py builds their configs',
    'python benchmarks/classify.py': 'trains several classifiers, one after the other',
    'mmrev doctor': 'imports everything in a process of its own; test_machine.py does so',
    'mmrev memory': 'makes up to ten forecasts; test_forecast.py makes them of a small network',
    'python benchmarks/parameter_free.py': 'times networks for minutes',
}
CLASSES = ('RBC', 'WBC', 'Platelets')
CLOTHES = ('dress', 'hat', 'shoes')
STAND_INS = {  # what a page presumes: the record that has the names of the published file
    'revbifpn_s3.pth.tar': 'revbifpn_s0', 'resnet50.pth.tar': 'iabn_resnet50', 'checkpoint.pth': 'pf_resnet50_hybrid',
    'wide_resnet38_deeplab_vistas.pth.tar': 'iabn_deeplab_wider_resnet16_a2'}


def runs(command):
    """Whether a command is listed above, or has words such as CONFIG in place of names."""
    return not any(' '.join(command).startswith(beginning) for beginning in NOT_RUN) and not any(
        word.isalpha() and word.isupper() for word in command)


def as_mmrev(command):
    """A command, of ``mmrev`` in place of its scripts and launchers."""
    program, *words = (word.replace('mmrev::', 'configs/') for word in command)
    if program == 'torchrun':
        return ['mmrev', *words[words.index('mmrev.cli') + 1:]]
    if program.startswith('tools/dist_'):
        del words[2 if 'test' in program else 1]  # the number of processes
        return ['mmrev', re.search('dist_(.*).sh', program).group(1), *words, '--launcher', 'pytorch']
    if program == 'python' and words[0] in ('tools/train.py', 'tools/test.py'):
        return ['mmrev', words[0][6:-3], *words[1:]]
    return [program, *words]


COMMANDS = {}
for page, command in shell_commands():
    if runs(command):
        COMMANDS.setdefault(page, []).append(command)


CHECKPOINTS = {word for commands in COMMANDS.values() for command in commands for word in command if '.pth' in word}


@pytest.fixture(scope='module')
def done():
    """The commands that ran."""
    return set()


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A clone without its package: what is in it by the documents, and a cache in place of downloads."""
    tmp_path = tmp_path_factory.mktemp('clone')
    for name in ('configs', 'tools', 'benchmarks'):
        (tmp_path / name).symlink_to(ROOT / name)
    for annotations, images, classes in (
            ('coco/annotations/instances_train2017', 'coco/train2017', CocoDataset.METAINFO['classes']),
            ('coco/annotations/instances_val2017', 'coco/val2017', CocoDataset.METAINFO['classes']),
            ('cells/annotations/train', 'cells/train', CLASSES), ('cells/annotations/val', 'cells/val', CLASSES)):
        write_coco(tmp_path / 'data' / f'{annotations}.json', tmp_path / 'data' / images, classes)
    for split in ('train', 'val'):
        for data in ('clothes', 'imagenet'):
            for name in CLOTHES:
                write_image(tmp_path / 'data' / data / split / name / '0.jpg')
        listed = tmp_path / 'data/imagenet/meta' / f'{split}.txt'
        listed.parent.mkdir(exist_ok=True)
        listed.write_text(''.join(f'{name}/0.jpg {label}\n' for label, name in enumerate(CLOTHES)))
    for photo in ('photo.jpg', 'folder/of/photos/1.jpg'):
        write_image(tmp_path / photo)
    for kind, split in itertools.product(('images', 'annotations'), ('train', 'val')):
        for name in ('1.png', '2.png'):
            write_image(tmp_path / 'data/nuclei' / kind / split / name, *([1] if kind == 'annotations' else []))
    for name in ('cells.py', 'clothes.py', 'nuclei.py', 'my_config.py'):
        (tmp_path / name).write_text(example(name))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('TORCH_HOME', str(tmp_path / 'cache'))
        patch.setattr(torch.hub, 'download_url_to_file', lambda url, file, *args, **kwargs: stand_in(Path(file)))
        patch.setattr(published, 'check_hash', lambda *args: None)
        patch.setattr(run_report_hook, 'draw_curves', lambda *args: None)
        yield tmp_path


def write_coco(annotations, images, classes):
    made = toy_detection.write_dataset(images.with_name('made'), num_images=2)
    write_masks(made)
    content = json.loads(made.read_text())
    content['categories'] = [dict(id=label + 1, name=name) for label, name in enumerate(classes)]
    annotations.parent.mkdir(parents=True, exist_ok=True)
    annotations.write_text(json.dumps(content))
    (made.parent / 'images').rename(images)
    shutil.rmtree(made.parent)


def write_image(path, most=254):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (64, 64) if most == 1 else (64, 64, 3)  # labels of two classes
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, most + 1, shape, np.uint8))


def stand_in(file):
    """Random weights under the names of a published file."""
    record = GoldenRecord(STAND_INS.get(file.name, 'revbifpn_s0'))
    if 'deeplab' in file.name:  # a state dict per part, of many weights; the values are not read
        parts = {}
        for key, shape in record.shapes.items():
            part, _, name = key.partition('.')
            parts.setdefault(part, {})[name] = torch.zeros(1).expand(shape) if shape else torch.tensor(0)
        torch.save(dict(state_dict=parts), file)
        return
    torch.save({key: value.float() if value.is_floating_point() else value
                for key, value in record.state_dict().items()}, file)


@pytest.mark.slow
@pytest.mark.parametrize('page', COMMANDS)
def test_the_commands_of_a_page_run(page, folder, done):
    """Those that no page before has, in another form of the same command."""
    for command in COMMANDS[page]:
        words = as_mmrev(command)
        if tuple(words) in done:
            continue
        for name in set(words) & STAND_INS.keys():
            stand_in(folder / name)
        trains = words[:2] == ['mmrev', 'train']
        keeps = trains and any(work_dir(words) in word for word in CHECKPOINTS)
        extra = ['default_hooks.checkpoint=None'] if trains and not keeps else []
        status, errors = forked(*shrunk(words, folder), *extra, cwd=folder)
        assert status == 0, f'{shlex.join(command)}\n{errors}'
        if keeps:
            keep_as_last_epoch(words, folder)
        if any('init_cfg.checkpoint=' in word for word in words):
            log = max((folder / work_dir(words)).glob('*/*.log'), key=lambda path: path.stat().st_mtime).read_text()
            assert re.search(r'Loaded (\d+) of the \1 tensors of RevBiFPN from mmrev://', log), log
            assert 'starts from random weights' not in log
        done.add(tuple(words))


def shrunk(words, folder):
    """A command with what makes it small at its end."""
    program, *arguments = words
    if 'digits.py' in arguments[0] and 'classification' not in arguments:
        return [*words, '--train-images', 2, '--val-images', 1]
    if 'segmentors.py' in arguments[0]:
        return [*words, '--only', 'R50 (mmseg)', '--size', 64, 64]
    if arguments[0] == 'convert':
        return [*words, '--any-hash']
    if arguments[0] not in ('train', 'test', 'predict'):
        return words
    given = words[words.index('--cfg-options') + 1:] if '--cfg-options' in words else []
    end = len(words) - len(given) - bool(given)
    cfg = config_of(words, folder)
    options = [*small_data(cfg), *(small_detector(cfg) if 'roi_head' in cfg.model else ()),
               *(small_classifier(cfg) if 'head' in cfg.model else ()),
               f'train_cfg.max_epochs={1 + ("--resume" in words)}', 'train_cfg.val_interval=9']
    return [*words[:end], *(['--overwrite'] * (arguments[0] == 'train' and '--resume' not in words)),
            '--cfg-options', *given, *options]


def config_of(words, folder):
    """The config of a command, with its options."""
    name = words[2] if '::' in words[2] else str(folder / words[2])
    return load_config(name, None)


def small_data(cfg):
    """Options: an epoch of two images, one to test with, read in this process; detectors' images are small."""
    for split in ('train', 'val', 'test'):
        yield from (f'{split}_dataloader.{entry}' for entry in (
            'num_workers=0', 'persistent_workers=False', 'batch_size=2'))
        dataset, path = cfg[f'{split}_dataloader'].dataset, f'{split}_dataloader.dataset'
        if 'dataset' in dataset:  # repeated
            yield f'{path}.times=1'
            dataset, path = dataset.dataset, f'{path}.dataset'
        yield f'{path}.indices={2 if split == "train" else 1}'
        for index, step in enumerate(dataset.pipeline):
            if step.type.endswith('Resize') and 'keep_ratio' in step:
                yield f'{path}.pipeline.{index}.scale=(64,64)'


def small_detector(cfg):
    """Options: RevBiFPN-S0 in place of larger ones, heads of 16 channels."""
    if cfg.model.backbone.type == 'ResNet':
        yield from ('model.backbone.depth=18', 'model.neck.in_channels=64,128,256,512', 'model.backbone.init_cfg=None')
    if cfg.model.backbone.get('arch', '').startswith('s'):
        yield from ('model.backbone.arch=s0', 'model.neck.in_channels=48,64,80,160')
    yield 'model.neck.out_channels=16'
    yield from ('model.rpn_head.in_channels=16', 'model.rpn_head.feat_channels=16',
                'model.roi_head.bbox_roi_extractor.out_channels=16', 'model.roi_head.bbox_head.in_channels=16',
                'model.roi_head.bbox_head.fc_out_channels=16', 'model.train_cfg.rpn_proposal.max_per_img=20',
                'model.train_cfg.rcnn.sampler.num=16', 'model.test_cfg.rpn.max_per_img=20')


def small_classifier(cfg):
    """Options: RevBiFPN-S0 in place of larger ones, the classes of the record that has InPlace-ABN's names."""
    if cfg.model.backbone.type == 'mmrev.IABNResNet' and cfg.model.backbone.depth == 50:
        yield 'model.head.num_classes=100'
        yield 'test_dataloader.dataset.metainfo.classes=' + ','.join(f'class{i}' for i in range(100))
    if cfg.model.backbone.get('arch') == 's3':
        yield from ('model.backbone.arch=s0', 'model.neck.in_channels=48,64,80,160',
                    'model.neck.out_channels=48,64,128,320', 'model.head.in_channels=48,64,128,320',
                    'model.head.feat_channels=1280')


def keep_as_last_epoch(words, folder):
    """Give the checkpoint of the only epoch the name of the last one of the whole training."""
    options = words[words.index('--cfg-options') + 1:] if '--cfg-options' in words else []
    length = next((int(word.split('=')[1]) for word in options if word.startswith('train_cfg.max_epochs=')),
                  config_of(words, folder).train_cfg.max_epochs)
    run = folder / work_dir(words)
    newest = max(run.glob('epoch_*.pth'), key=lambda path: path.stat().st_mtime)
    newest.replace(run / f'epoch_{length}.pth')


def work_dir(words):
    """Where a training writes."""
    return words[words.index('--work-dir') + 1] if '--work-dir' in words else f'work_dirs/{Path(words[2]).stem}'


def test_what_does_not_run_is_listed_with_a_reason():
    listed = {beginning for _, command in shell_commands() for beginning in NOT_RUN
              if ' '.join(command).startswith(beginning)}
    assert listed == NOT_RUN.keys() and all(NOT_RUN.values())


PARSED = [command for _, command in shell_commands() if not runs(command)] + [*commands_in_text()]


@pytest.mark.parametrize('command', sorted(set(map(tuple, PARSED))), ids=' '.join)
def test_what_does_not_run_is_taken_by_its_program(command, monkeypatch):
    program, *words = command
    if program == 'make':
        assert all('=' in word for word in words[1:])
        steps = subprocess.run(['make', '-n', words[0]], cwd=ROOT, capture_output=True, text=True)
        assert steps.returncode == 0 and steps.stdout, steps.stderr
    elif program == 'pip':
        pins = {line.split(';')[0].strip() for path in (ROOT / 'requirements').glob('*.txt')
                for line in path.read_text().splitlines()}
        assert all(word in pins for word in words if '==' in word) and words[0] == 'install'
        assert all(mmrev.__version__ in word for word in words if word.startswith('mmrev-'))
    elif program == 'pre-commit':
        assert (ROOT / '.pre-commit-config.yaml').exists()
    elif words == ['doctor']:
        assert 'doctor' in COMMAND_NAMES
    else:
        parse = argparse.ArgumentParser.parse_args
        monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', lambda parser, args=None, namespace=None: stop(
            parse(parser, args, namespace)))
        monkeypatch.setattr(sys, 'argv', [words[0], *words[1:]])
        monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))
        with pytest.raises(Parsed):
            if program == 'mmrev':
                main(words)
            else:
                runpy.run_path(str(ROOT / words[0]), run_name='__main__')


@pytest.mark.parametrize('command', [command for _, command in shell_commands() if command[0] == 'torchrun'],
                         ids=' '.join)
def test_torchrun_takes_what_comes_before_the_module(command):
    from torch.distributed.run import get_args_parser
    taken = get_args_parser().parse_args(command[1:command.index('mmrev.cli') + 1])
    assert taken.module and taken.training_script == 'mmrev.cli'


class Parsed(BaseException):
    """A parser has read the arguments."""


def stop(arguments):
    raise Parsed(arguments)
