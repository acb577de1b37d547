"""Every mistake in what the user gives: named in two lines, status 2, no traceback, nothing written."""
import argparse
import contextlib
import logging
import os
import pickle
import random
import sys
from typing import Any, List, Optional, Sequence, Tuple, Union

import numpy as np
import pytest
import torch
import toy_detection
from mmengine.config import Config
from mmengine.model import BaseModel
from torch import nn

from mmrev.checkpoints import allow_mmengine_checkpoints
from mmrev.cli import main
from mmrev.cli.arguments import check_values
from mmrev.cli.common import merge_options
from mmrev.cli.errors import is_complaint, start_up
from mmrev.cli.preflight import TRAIN_KEYS, check_config, check_data
from mmrev.cli.rehearsal import alone
from mmrev.cli.shapes import check_channels
from mmrev.problems import ProblemError, one_line

from .conftest import ROOT, ended, mmrev, start


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A data set, a good config, and files that are broken in several ways."""
    folder = tmp_path_factory.mktemp('mistakes')
    annotations = toy_detection.write_dataset(folder / 'data')
    text = toy_detection.config_text(folder / 'data')
    (folder / 'good.py').write_text(text)
    (folder / 'no_base.py').write_text("_base_ = './nowhere.py'\n")
    (folder / 'no_mmdet_base.py').write_text("_base_ = 'mmdet::_base_/nowhere.py'\n")
    (folder / 'no_python.py').write_text('model = dict(\n')
    (folder / 'no_model.py').write_text('train_cfg = dict()\n')
    (folder / 'data' / 'cut.json').write_text(annotations.read_text()[:-50])
    for name, classes in (('no_classes.py', ('cat', 'dog')), ('no_tuple.py', 'dark')):
        (folder / name).write_text("_base_ = './good.py'\ntrain_dataloader = dict(dataset=dict(metainfo=dict(classes="
                                   f'{classes!r})))\n')
    (folder / 'no_checkpoint.pth').write_text('some text')
    torch.save(dict(state_dict=dict(other=torch.zeros(1))), folder / 'other.pth')
    torch.save(dict(state_dict={'neck.lateral_convs.0.conv.bias': torch.zeros(16)}, meta={}, message_hub={},
                    optimizer={}), folder / 'otherwise.pth')
    (folder / 'cut.pth').write_bytes((folder / 'other.pth').read_bytes()[:-200])
    flipped = bytearray((folder / 'other.pth').read_bytes())
    flipped[flipped.index(b'other')] ^= 1
    (folder / 'flipped.pth').write_bytes(flipped)
    torch.save(dict(state_dict={}, run=argparse.Namespace()), folder / 'foreign.pth')
    return folder


def option(value):
    return ['train', 'good.py', '--cfg-options', value]


MISTAKES = {
    'a folder for a config': (['train', 'data'], 'config `data` is a folder', 'no config in it'),
    'a folder of configs': (['train', '.'], 'config `.` is a folder', 'good.py'),
    'an empty work dir': (['train', 'good.py', '--work-dir', ''], 'work dir is empty', '--work-dir'),
    'a config that is not there': (['train', 'god.py'], 'config `god.py` does not exist', '`good.py`'),
    'a base that is not there': (['train', 'no_base.py'], 'nowhere.py', '_base_'),
    'a base that mmdet does not have': (['train', 'no_mmdet_base.py'], 'nowhere.py', '_base_'),
    'a syntax error': (['train', 'no_python.py'], 'no_python.py', 'Mend'),
    'a config without a model': (['train', 'no_model.py'], 'no_model.py has no `model`', 'inherit'),
    'a flag that is not there': (['train', 'good.py', '--wrok-dir', 'x'], '--wrok-dir', '--help'),
    'no config': (['train'], 'config', '--help'),
    'a command that is not there': (['trian'], '`trian`', 'train, test'),
    'a launcher that did not start it': (['train', 'good.py', '--launcher', 'mpi'], 'OMPI_COMM_WORLD_RANK', 'mpirun'),
    'an option without value': (option('train_cfg'), '`train_cfg`', 'KEY=VALUE'),
    'an option with an empty key': (option('model..type=x'), '`model..type=x`', 'KEY=VALUE'),
    'an option with open brackets': (option('a=[1,(2'), 'a=[1,(2', 'Quote'),
    'an option below a number': (option('train_cfg.max_epochs.x=1'), 'train_cfg.max_epochs', 'good.py'),
    'an option of a section that is not there': (option('optim_wraper.optimizer.lr=1'), '`optim_wraper`',
                                                 '`optim_wrapper`'),
    'an option that nothing reads': (option('seed=3'), 'no `seed`', 'whole path'),
    'an option for a variable that was read': (option("CLASSES=['a','b']"), '`CLASSES` stays as it is',
                                               'train_dataloader.dataset.metainfo.classes='),
    'an option past the end of a list': (option('train_dataloader.dataset.pipeline.9.scale=3'), 'Index 9', 'good.py'),
    'an import that is not there': (option('custom_imports.imports=no_such_module'), 'no_such_module', 'PYTHONPATH'),
    'a scope that is not there': (option('default_scope=mmdett'), 'no scope `mmdett`', '`mmdet`'),
    'a number for a section': (option('model=3'), '`model` is 3, not a dict', 'model.KEY=VALUE'),
    'a section without its companions': (option('val_dataloader=None'), 'no `val_dataloader`', 'three'),
    'annotations that are not there': (option('train_dataloader.dataset.ann_file=x.json'), 'x.json` does not exist',
                                       'train_dataloader.dataset.data_root'),
    'annotations cut off': (option('train_dataloader.dataset.ann_file=cut.json'), 'cut.json` is empty or cut off',
                            'again'),
    'annotations of the metric not there': (option('val_evaluator.ann_file=x.json'), '`x.json` does not exist',
                                            'val_evaluator.ann_file'),
    'an image folder that is not there': (option('val_dataloader.dataset.data_prefix.img=x/'), 'x/` does not exist',
                                          'val_dataloader.dataset.data_root'),
    'an unknown backbone': (option('model.backbone.type=mmrev.RevBiFPM'), 'no model `mmrev.RevBiFPM`',
                            '`mmrev.RevBiFPN`'),
    'an unknown arch': (option('model.backbone.arch=s9'), 's9', 'good.py'),
    'an unknown argument of the backbone': (option('model.backbone.archh=s1'), 'archh', 'good.py'),
    'a text for a number of the model': (option('model.neck.out_channels=abc'), '`model.neck.out_channels` is the '
                                         'text `abc`; FPN takes int', 'model.neck.out_channels=VALUE'),
    'a text for a number without annotation': (option('log_processor.window_size=abc'), 'LogProcessor takes int',
                                               'VALUE'),
    'a misspelt truth value': (option('train_dataloader.sampler.shuffle=Flase'), 'DefaultSampler takes bool', 'VALUE'),
    'a model without this part': (option('model.nekc.out_channels=3'), "'nekc'", 'model.KEY=VALUE'),
    'an unknown norm': (option('model.backbone.norm_cfg.type=BNN'), '`BNN` (model.backbone.norm_cfg.type)', '`BN`'),
    'no type': (option('model.neck.type='), '(model.neck)', 'good.py'),
    'a backbone that the neck does not fit': (option('model.backbone.arch=s3'), 'model.neck.lateral_convs.0.conv takes '
                                              '48 channels and gets 128; model.backbone gives [128, 160, 208, 416]',
                                              'model.neck'),
    'a backbone for other images': (option('model.backbone.in_channels=1'), 'takes images of 1 channels',
                                    'model.data_preprocessor.mean'),
    'fewer levels than the neck takes': (option('model.backbone.out_indices=(0,1)'), 'model.neck takes 4 levels',
                                         'model.neck.in_channels'),
    'a head that the neck does not fit': (option('model.rpn_head.in_channels=17'), 'rpn_conv takes 17 channels and '
                                          'gets 16', 'model.rpn_head'),
    'RoIs that the neck does not fit': (option('model.roi_head.bbox_roi_extractor.out_channels=17'), 'gets 16',
                                        'model.roi_head'),
    'weights to start from that are not there': (
        ['train', 'good.py', '--cfg-options', 'model.backbone.init_cfg.type=Pretrained',
         'model.backbone.init_cfg.checkpoint=othr.pth'], 'model.backbone.init_cfg.checkpoint', '`other.pth`'),
    'classes that the annotations do not have': (['train', 'no_classes.py'], 'none of the classes cat, dog',
                                                 "classes=('dark', 'bright')"),
    'a class that is no tuple': (['train', 'no_tuple.py'], 'the text `dark`', "classes=('dark', )"),
    'a head with other classes': (option('model.roi_head.bbox_head.num_classes=7'), 'num_classes=7', 'num_classes=2'),
    'an unknown transform': (option('train_dataloader.dataset.pipeline.2.type=Resise'), '`Resise`', '`Resize`'),
    'an unknown optimizer': (option('optim_wrapper.optimizer.type=SGGD'), '`SGGD`', '`SGD`'),
    'a misspelt hook': (option('default_hooks.timr.interval=3'), '`default_hooks.timr` has no `type`', 'name'),
    'an argument that a hook would pass on': (option('default_hooks.checkpoint.intervall=3'), '`intervall`',
                                              '`interval`'),
    'a metric to save the best by that is none': (option('default_hooks.checkpoint.save_best=x'), 'rule for key x',
                                                  'default_hooks.checkpoint'),
    'a text for the learning rate': (option('optim_wrapper.optimizer.lr=abc'), '`optim_wrapper.optimizer.lr` is the '
                                     'text `abc`; SGD takes float', 'optim_wrapper.optimizer.lr=VALUE'),
    'a text for the weight decay': (option('optim_wrapper.optimizer.weight_decay=x'), 'weight_decay` is the text',
                                    'VALUE'),
    'a negative learning rate': (option('optim_wrapper.optimizer.lr=-1'), 'Invalid learning rate: -1',
                                 'optim_wrapper.optimizer'),
    'a misspelt clipping': (option('optim_wrapper.clip_grad.max_nrom=1'), "'max_nrom'", 'optim_wrapper'),
    'a misspelt rule for parameters': (option('optim_wrapper.paramwise_cfg.norm_decay_mul=0'), '`norm_decay_mul`',
                                       '`norm_decay_mult`'),
    'a base batch size of none': ([*option('auto_scale_lr.base_batch_size=0'), '--auto-scale-lr'], '`auto_scale_lr`',
                                  'VALUE'),
    'a schedule that is no list of dicts': (option("param_scheduler=[dict(type='StepLR')]"), 'not a list of dict',
                                            'good.py'),
    'a text for the batch size': (option('train_dataloader.batch_size=abc'), 'batch_size` is the text `abc`',
                                  'train_dataloader.batch_size=VALUE'),
    'a batch size of none': (option('train_dataloader.batch_size=0'), 'batch_size=0', 'train_dataloader'),
    'a misspelt batch size': (option('val_dataloader.batch_siz=3'), '`val_dataloader.batch_siz`', '`batch_size`'),
    'less than no workers': (option('train_dataloader.num_workers=-1'), 'num_workers', 'train_dataloader'),
    'a number for a data set': (option('train_dataloader.dataset=3'), '`train_dataloader.dataset` is 3', 'good.py'),
    'a misspelt argument of the data set': (option('val_dataloader.dataset.test_mod=True'), "'test_mod'",
                                            'val_dataloader.dataset'),
    'a text for a size': (option('train_dataloader.dataset.pipeline.2.scale=big'), 'pipeline.2.scale` is the text',
                          'VALUE'),
    'a metric that is none': (option('val_evaluator.metric=bboxx'), 'bboxx', 'val_evaluator'),
    'a text for the epochs': (option('train_cfg.max_epochs=two'), '`train_cfg.max_epochs` is the text `two`', 'VALUE'),
    'no epoch': (option('train_cfg.max_epochs=0'), '`train_cfg.max_epochs` is 0', 'train_cfg.max_epochs=NUMBER'),
    'no interval': (option('train_cfg.val_interval=0'), '`train_cfg.val_interval` is 0', 'NUMBER'),
    'a text for the seed': (option('randomness.seed=abc'), '`randomness`', 'randomness.KEY'),
    'an unknown log level': (option('log_level=LOUD'), "'LOUD'", 'log_level'),
    '--amp in place of another wrapper': (['train', 'good.py', '--amp', '--cfg-options',
                                           'optim_wrapper.type=ApexOptimWrapper'], '`ApexOptimWrapper`', '--amp'),
    'an unknown hook': (option('default_hooks.timer.type=IterTimmerHook'), '`IterTimmerHook`', '`IterTimerHook`'),
    'an unknown argument of the loop': (option('train_cfg.max_epoch=3'), '`max_epoch`', '`max_epochs`'),
    'a checkpoint that is not there': (['test', 'good.py', 'othre.pth'], '`othre.pth` does not exist', '`other.pth`'),
    'a checkpoint that is text': (['test', 'good.py', 'no_checkpoint.pth'], 'no_checkpoint.pth', 'another'),
    'a checkpoint cut off': (['test', 'good.py', 'cut.pth'], 'cut.pth', 'Copy it again'),
    'a checkpoint with a flipped bit': (['test', 'good.py', 'flipped.pth'], 'flipped.pth', 'Copy it again'),
    'a checkpoint with foreign objects': (['test', 'good.py', 'foreign.pth'], 'argparse.Namespace', 'add_safe_globals'),
    'a checkpoint of another model': (['test', 'good.py', 'other.pth'], 'no weight of', 'config'),
    'resuming from nothing': (['train', 'good.py', '--resume', '7.bin'], '`7.bin` does not exist', 'Checkpoints'),
    'resuming from weights': (['train', 'good.py', '--resume', 'other.pth'], '`optimizer`', 'load_from=other.pth'),
    'resuming from another model': (['train', 'good.py', '--resume', 'otherwise.pth'], 'another model: `backbone.',
                                    'load_from=otherwise.pth'),
    'starting from another model': (option('load_from=other.pth'), 'no weight of', 'config'),
    'starting from a number': (option('load_from=3'), '`load_from` is 3', 'good.py'),
    'an --out that is no pickle': (['test', 'good.py', 'other.pth', '--out', 'x.json'], 'x.json', '.pkl'),
}


def assert_said(errors, problem, remedy):
    start, *said = errors.partition(': error: ')  # before it at most warnings of the hosts while they are imported
    lines = ''.join(said).strip().splitlines()
    assert len(lines) == 2 and 'Traceback' not in start and 'error' not in start.lower(), errors
    assert problem in lines[0] and remedy in errors, errors


@pytest.mark.parametrize('mistake', MISTAKES)
def test_it_is_named_with_a_way_out_and_nothing_is_written(mistake, folder, monkeypatch, capfd):
    arguments, problem, remedy = MISTAKES[mistake]
    monkeypatch.chdir(folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob('*')}
    status = main(arguments)
    assert status == 2
    assert_said(capfd.readouterr().err, problem, remedy)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob('*')} == before


def test_a_wrapper_that_needs_a_gpu_is_refused_without_one(folder, monkeypatch, capfd):
    monkeypatch.setattr('mmrev.cli.rehearsal.get_device', lambda: 'cpu')
    monkeypatch.chdir(folder)
    assert main(option('optim_wrapper.type=AmpOptimWrapper')) == 2
    assert_said(capfd.readouterr().err, 'AmpOptimWrapper, which needs a GPU', '--amp')


@pytest.mark.parametrize('mistake', ['a config that is not there', 'a checkpoint cut off'])
def test_a_process_of_its_own_says_the_same(mistake, folder):
    arguments, problem, remedy = MISTAKES[mistake]
    status, output, errors = ended(start(*mmrev(*arguments), cwd=folder))
    assert (status, output) == (2, '')
    assert_said(errors, problem, remedy)


def test_several_processes_say_it_once(folder):
    arguments = option('model.backbone.arch=s9')[1:]
    status, _, errors = ended(start(ROOT / 'tools/dist_train.sh', arguments[0], 2, *arguments[1:], cwd=folder))
    assert status == 2
    assert_said(errors, 's9', 'good.py')


def test_the_traceback_is_there_for_who_asks(folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    assert main([*option('model.backbone.arch=s9'), '--traceback']) == 2
    errors = capfd.readouterr().err
    assert 'Traceback' in errors and 'ValueError' in errors


def test_a_damaged_latest_checkpoint_names_the_one_before(folder, tmp_path, monkeypatch, capfd):
    run = tmp_path / 'run'
    run.mkdir()
    for name, age in (('epoch_1.pth', 20), ('epoch_2.pth', 10), ('epoch_3.pth', 0)):
        (run / name).write_bytes((folder / ('cut.pth' if name == 'epoch_3.pth' else 'other.pth')).read_bytes())
        stamp = (run / name).stat().st_mtime - age
        os.utime(run / name, (stamp, stamp))
    (run / 'last_checkpoint').write_text(str(run / 'epoch_3.pth'))
    monkeypatch.chdir(folder)
    assert main(['train', 'good.py', '--work-dir', str(run), '--resume']) == 2
    assert_said(capfd.readouterr().err, 'epoch_3.pth', f'--resume {run / "epoch_2.pth"}')


def test_checking_leaves_the_config_as_it_is(folder, monkeypatch):
    monkeypatch.chdir(folder)
    cfg = Config.fromfile('good.py')
    before = cfg.pretty_text
    check_config(cfg, TRAIN_KEYS)
    assert cfg.pretty_text == before


def test_checking_leaves_random_numbers_and_log_as_they_are(folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)

    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    expected = draw()
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    check_config(Config.fromfile('good.py'), TRAIN_KEYS)
    assert draw() == expected
    assert capfd.readouterr().out == ''
    assert logging.root.manager.disable < logging.ERROR


def test_an_option_of_custom_imports_is_imported(folder, tmp_path, monkeypatch):
    (tmp_path / 'module_of_the_user.py').write_text('')
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(tmp_path)
    cfg = Config.fromfile('good.py')
    merge_options(cfg, {'custom_imports.imports': ['mmrev', 'module_of_the_user']}, 'good.py')
    assert 'module_of_the_user' in sys.modules


class Digits(BaseModel):
    """A classifier whose last layer takes images of one size, or none."""

    def __init__(self, inputs):
        super().__init__()
        self.backbone = nn.Conv2d(3, 4, 1)
        self.head = nn.Linear(inputs, 2)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return self.head(nn.functional.avg_pool2d(self.backbone(inputs), 32).flatten(1))


def test_a_layer_that_fits_images_of_another_size_only_is_no_mistake():
    check_channels(Digits(4 * 7 * 7), 'x.py')


class Pooled(Digits):
    """The same for images of any size."""

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return self.head(self.backbone(inputs).mean((2, 3)))


def test_a_layer_that_fits_no_image_is_named():
    check_channels(Pooled(4), 'x.py')
    with pytest.raises(ProblemError, match=r'model.head takes 5 channels and gets 4; model.backbone gives \[4\]'):
        check_channels(Pooled(5), 'x.py')


@pytest.mark.parametrize('annotation, text, meant', [
    (int, 'abc', False), (Optional[float], 'abc', False), (Union[int, Tuple[int, int]], 'abc', False),
    (Union[str, int], 'abc', True), (List[str], 'abc', True), (Sequence[int], 'abc', True), (Any, 'abc', True),
    (bool, 'qv_bias', True), (bool, 'Flase', False)])
def test_a_text_is_refused_only_where_it_cannot_be_meant(annotation, text, meant):
    def built(value):
        raise AssertionError('nothing is built')

    built.__annotations__['value'] = annotation
    with contextlib.nullcontext() if meant else pytest.raises(ProblemError, match='`section.value` is the text'):
        check_values(built, dict(value=text), 'section', 'x.py')


def test_a_process_group_of_one_stands_for_processes_that_have_not_joined():
    with alone('pytorch'):
        assert torch.distributed.get_world_size() == 1
    assert not torch.distributed.is_initialized()


def test_data_behind_another_backend_is_not_looked_for_here(folder):
    remote = dict(data_root='s3/', ann_file='x.json', data_prefix=dict(img='x/'), backend_args=dict(backend='petrel'))
    check_data(Config(dict(train_dataloader=dict(dataset=remote))), ('train', ))
    with pytest.raises(ProblemError, match='x.json'):
        check_data(Config(dict(train_dataloader=dict(dataset=dict(remote, backend_args=None)))), ('train', ))


def raised_by(function):
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError('it raised nothing')


def a_check():
    raise ValueError('`arch` must be one of s0, s1')


def a_failed_assertion():
    assert False, 'in words'


@pytest.mark.parametrize('function, speaks', [
    (a_check, True), (a_failed_assertion, True), (lambda: __import__('no_such_module'), True),
    (lambda: a_check(**{'archh': 's0'}), True),
    (lambda: int('x'), False), (lambda: {}['x'], False), (lambda: None + 1, False), (lambda: torch.no_such, False)])
def test_what_a_check_raised_speaks_to_the_user_and_what_python_ran_into_does_not(function, speaks):
    assert is_complaint(raised_by(function)) is speaks


def test_after_the_start_only_files_are_the_users():
    with pytest.raises(ValueError), start_up(over=lambda: True):
        a_check()
    with pytest.raises(ProblemError, match='No such file or directory: `nowhere`'), start_up(over=lambda: True):
        open('nowhere')


def test_an_error_of_a_data_worker_is_said_in_its_last_line():
    relayed = FileNotFoundError('Caught FileNotFoundError in DataLoader worker process 0.\nOriginal Traceback (most '
                                'recent call last):\n  File ...\nFileNotFoundError: no such file: x.jpg\n')
    assert one_line(relayed) == 'no such file: x.jpg'


def test_a_checkpoint_cannot_reach_other_functions_by_the_name_of_getattr(tmp_path):
    allow_mmengine_checkpoints()
    torch.save(GetSystem(), tmp_path / 'evil.pth')
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / 'evil.pth')


class GetSystem:
    """Pickles to ``getattr(dict, 'fromkeys')``, a stand-in for something harmful."""

    def __reduce__(self):
        return getattr, (dict, 'fromkeys')
