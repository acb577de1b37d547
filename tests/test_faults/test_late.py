"""What would fail late, hang or end in a traceback is named at the start, or does no harm."""
import argparse
import math
import os
import re
import shutil
import sys

import pytest
import torch
from mmengine.config import Config

from mmrev.apis.entries import naming_entries
from mmrev.checkpoints import load_local
from mmrev.cli.common import run_command
from mmrev.problems import ProblemError, phase
from support.commands import ended, forked, printed, said, start

from . import campaign


@pytest.fixture(scope='module')
def configs(tmp_path_factory):
    """The good configs; a checkpoint of the classifier lies in `campaign.GOOD`."""
    return campaign.prepare(tmp_path_factory.mktemp('good'))


def lay_out(configs, folder, base, *changes, files=lambda folder: None):
    """Write a config with changes, its data, and change the files."""
    campaign.lay_out(campaign.Fault('', base, campaign.both(*changes), files), configs, folder)


def test_a_training_goes_on_when_the_reader_of_its_output_ends(configs, tmp_path):
    """It starts from weights, so the log does not speak of random ones."""
    weights = campaign.GOOD[campaign.CLS] / 'epoch_1.pth'
    lay_out(configs, tmp_path, campaign.CLS)
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, 'wb') as output:
        status, errors = forked('train', 'config.py', '--cfg-options', f'load_from={weights}', cwd=tmp_path,
                                output=output)
    assert status == 0 and not errors
    log, = (tmp_path / 'work_dirs/config').glob('*/*.log')
    text = log.read_text()
    assert 'Epoch(val) [1]' in text and f'Load checkpoint from {weights}' in text and 'random weights' not in text
    assert load_local(str(tmp_path / 'work_dirs/config/epoch_1.pth'))


def test_a_resumed_run_says_which_values_of_the_config_its_checkpoint_replaces(configs, tmp_path):
    """With OneCycleLR, whose state has a method that a safe `torch.load` refuses."""
    schedule = dict(type='OneCycleLR', eta_max=0.1, total_steps=9, by_epoch=False)
    lay_out(configs, tmp_path, campaign.CLS, campaign.set_('param_scheduler', schedule))
    assert forked('train', 'config.py', cwd=tmp_path) == (0, '')
    log = printed('train', 'config.py', '--resume', '--cfg-options', 'train_cfg.max_epochs=2',
                   'optim_wrapper.optimizer.weight_decay=0.1', 'param_scheduler.eta_max=0.2', cwd=tmp_path)
    assert 'AdamW (the optimizer) continues with values of the checkpoint: weight_decay=0.05 (config: 0.1)' in log
    assert 'OneCycleLR (schedule 0) continues with values of the checkpoint: eta_max=0.1 (config: 0.2)' in log
    assert 'Epoch(val) [2]' in log


def test_what_nothing_reads_is_named_in_the_log(configs, tmp_path):
    tested = [campaign.set_(f'test_{part}', configs[campaign.CLS][f'val_{part}'])
              for part in ('dataloader', 'evaluator')]
    lay_out(configs, tmp_path, campaign.CLS, *tested, campaign.set_('test_cfg', dict(rcnn=dict(score_thr=0.05))))
    (tmp_path / 'child.py').write_text("_base_ = 'config.py'\nbatch_size = 2\nwidth = 1\n"
                                       "data_preprocessor = dict(mean=[1.])\n"
                                       "optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(pos_embedding={})))\n")
    log = printed('train', 'child.py', cwd=tmp_path)
    assert '`batch_size` in child.py is read by nothing; the run reads train_dataloader.batch_size' in log
    assert '`width` in child.py is read by nothing\n' in log and '`test_cfg.rcnn` is read by nothing' in log
    assert 'custom_keys` has `pos_embedding`, which is in the name of no weight' in log
    assert '`data_preprocessor` is read by nothing, for there is another one' in log


def test_a_refused_resume_leaves_the_config_of_the_run_as_it_was(configs, tmp_path):
    lay_out(configs, tmp_path, campaign.CLS)
    assert forked('train', 'config.py', cwd=tmp_path) == (0, '')
    config = tmp_path / 'work_dirs/config/config.py'
    before = config.read_text()
    again = 'train', 'config.py', '--resume', '--cfg-options', 'train_cfg.max_epochs=2'
    for option, words in (('optim_wrapper.optimizer.type=SGD', 'is no SGD'),
                          ('optim_wrapper.paramwise_cfg=None', 'groups of parameters, that of the config 1')):
        status, errors = forked(*again, option, cwd=tmp_path)
        assert status == 2 and words in errors, errors
        assert config.read_text() == before


def test_a_resumed_run_with_other_data_starts_at_the_beginning_of_its_epoch(configs, tmp_path):
    lay_out(configs, tmp_path, campaign.CLS)
    printed('train', 'config.py', '--cfg-options', 'train_dataloader.batch_size=1', cwd=tmp_path)
    again = 'train', 'config.py', '--resume', '--cfg-options', 'train_cfg.max_epochs=2'
    log = printed(*again, 'train_dataloader.batch_size=4', cwd=tmp_path)
    assert 'data or batch size have changed' in log and 'loss' in log.split('Epoch(train) [2]')[1]
    assert '2 of 2 epochs are done already: nothing is trained' in printed(*again, cwd=tmp_path)


def test_images_that_cannot_be_read_are_named_after_the_others_have_been_predicted(configs, tmp_path):
    (tmp_path / 'images').mkdir()
    good = sorted((campaign.GOOD[campaign.CLS] / 'data').rglob('*.png'))[0]
    for name in '135':
        shutil.copy(good, tmp_path / f'images/{name}.png')
    (tmp_path / 'images/2.png').write_text('no image')
    os.mkfifo(tmp_path / 'images/4.png')
    lay_out(configs, tmp_path, campaign.CLS)
    with open(tmp_path / 'output', 'w') as output:
        status, errors = forked('predict', 'config.py', campaign.GOOD[campaign.CLS] / 'epoch_1.pth', 'images',
                                cwd=tmp_path, output=output)
    assert status == 1
    assert said(errors)[0].endswith('error: 2 of 5 images cannot be read or predicted: `images/2.png`, `images/4.png`; '
                                    'of the first one, it begins with b\'no image\'')
    predicted = re.findall(r'^images/(\d).png: ', (tmp_path / 'output').read_text(), re.MULTILINE)
    assert predicted == ['1', '3', '5']


def test_a_command_ends_well_where_standard_output_is_closed(monkeypatch):
    monkeypatch.setattr(sys, 'stdout', None)
    assert run_command(argparse.ArgumentParser(), lambda args: print('text'), []) == 0


HOOK, LOADER = 'default_hooks.checkpoint', 'train_dataloader'
NAMED = {  # what is changed: what the first line of the message says
    'fraction of a worker': (campaign.set_(f'{LOADER}.num_workers', 1.5), f'`{LOADER}.num_workers` is 1.5'),
    'fraction of a checkpoint': (campaign.set_(f'{HOOK}.max_keep_ckpts', 1.5), f'`{HOOK}.max_keep_ckpts` is 1.5'),
    'timeout without workers': (campaign.set_(f'{LOADER}.timeout', 3), f'`{LOADER}`: '),
    'statistics': (campaign.set_('log_processor.custom_cfg', [1]), '`log_processor`: '),
    'pattern': (campaign.set_('log_processor.mean_pattern', '('), '`log_processor`: '),
    'log by epoch': (campaign.set_('log_processor.by_epoch', 'x'), '`log_processor.by_epoch` is the text `x`'),
    'train by epoch': (campaign.set_('train_cfg.by_epoch', 'x'), "`train_cfg.by_epoch` is 'x'"),
    'epochs of iterations': (campaign.set_('train_cfg.by_epoch', False), '`train_cfg.max_epochs`: IterBasedTrainLoop'),
    'loop': (campaign.set_('val_cfg.type', 'TestLoop'), '`val_cfg.type` is TestLoop'),
    'hook': (campaign.set_('custom_hooks', [3]), '`custom_hooks.0` is 3, not a dict'),
    'hook of a run': (campaign.set_('custom_hooks', [dict(type='EMAHook', momentum=2)]), '`custom_hooks.0`: momentum'),
    'two averages': (campaign.set_('custom_hooks', [dict(type='EMAHook'), dict(type='EMAHook')]), 'several EMAHooks'),
    'backend': (campaign.set_(f'{HOOK}.backend_args', dict(backend='nope')), f'`{HOOK}`: KeyError: nope'),
    'number as a name': (campaign.set_(f'{HOOK}.filename_tmpl', 3), '`filename_tmpl` of CheckpointHook is 3'),
    'null in a name': (campaign.set_(f'{HOOK}.filename_tmpl', '{}\0'), '`filename_tmpl` of CheckpointHook'),
    'empty name': (campaign.set_(f'{HOOK}.filename_tmpl', ''), '`filename_tmpl` of CheckpointHook'),
    'long name': (campaign.set_(f'{HOOK}.filename_tmpl', 300 * 'x' + '{}'), 'has 302 characters'),
    'section of a section': (campaign.set_('env_cfg.mp_cfg', 3), '`env_cfg.mp_cfg` is 3, not a dict'),
    'threads': (campaign.set_('env_cfg.mp_cfg', dict(opencv_num_threads='x')), '`env_cfg`: '),
    'decay': (campaign.set_('optim_wrapper.paramwise_cfg', 3), '`optim_wrapper.paramwise_cfg` is 3, not a dict'),
    'half a milestone': (campaign.set_('param_scheduler', [dict(type='MultiStepLR', milestones=[1.5])]),
                         '`param_scheduler.0.milestones.0` is 1.5'),
    'seed': (campaign.set_('randomness.seed', -1), '`randomness`: Seed must be'),
    'runner': (campaign.set_('runner_type', 'x'), '`runner_type`: x is not'),
    'strategy': (campaign.set_('strategy', dict(type='x')), '`strategy` is read only by'),
    'compile': (campaign.set_('compile', 'x'), '`compile`: '),
    'batch norm': (campaign.set_('efficient_conv_bn_eval', ['x']), '`efficient_conv_bn_eval`: '),
    'batch size': (campaign.set_('auto_scale_lr', dict(enable=True)), '`auto_scale_lr`: '),
}
NO_VALIDATION = [campaign.set_(key, None) for key in ('val_dataloader', 'val_cfg', 'val_evaluator')]
MONITORING = {
    HOOK: dict(type='CheckpointHook', interval=1, save_best='auto'),
    'custom_hooks': [dict(type='EarlyStoppingHook', monitor='accuracy/top1')],
    'param_scheduler': [dict(type='ReduceOnPlateauLR', monitor='accuracy/top1')],
}
STATES = {  # a change of a checkpoint, and the key that is named
    'optimizer.param_groups.0.lr': lambda held: held['optimizer']['param_groups'][0].update(lr=-1.),
    'optimizer.param_groups.0.eps': lambda held: held['optimizer']['param_groups'][0].update(eps='x'),
    'param_schedulers.0.last_step': lambda held: held['param_schedulers'][0].update(last_step='x'),
    'param_schedulers.0.base_values.0': lambda held: held['param_schedulers'][0].update(base_values=[math.nan]),
}


def refused(configs, folder, changes, arguments=('train', 'config.py'), files=lambda folder: None):
    """The first line of the message; nothing is written."""
    lay_out(configs, folder, campaign.CLS, *changes, files=files)
    before = campaign.contents(folder)
    status, errors = forked(*arguments, cwd=folder)
    assert not campaign.verdict(status, errors, before, campaign.contents(folder), False), errors
    return said(errors)[0]


@pytest.mark.parametrize('name', NAMED)
def test_the_message_names_the_entry_of_the_config(name, configs, tmp_path):
    change, words = NAMED[name]
    assert words in refused(configs, tmp_path, [change])


@pytest.mark.parametrize('path', MONITORING)
def test_what_monitors_a_validation_needs_one(path, configs, tmp_path):
    line = refused(configs, tmp_path, [campaign.set_(path, MONITORING[path]), *NO_VALIDATION])
    assert 'there is no validation' in line


@pytest.mark.parametrize('key', STATES)
def test_a_checkpoint_with_rates_or_steps_that_cannot_be_is_not_resumed(key, configs, tmp_path):
    def files(folder):
        held = torch.load(campaign.GOOD[campaign.CLS] / 'epoch_1.pth', weights_only=False)
        STATES[key](held)
        torch.save(held, folder / 'x.pth')

    line = refused(configs, tmp_path, [], ('train', 'config.py', '--resume', 'x.pth'), files)
    assert f'`{key}`' in line


def test_a_lambda_in_a_config_is_named():
    cfg = Config(dict(model=dict(head=dict(topk=lambda: 1))))
    with pytest.raises(ProblemError, match='^`model.head.topk`: its value cannot be written as Python'):
        with naming_entries(cfg), phase('building the runner'):
            raise SyntaxError('Failed to format the config file, please check the syntax of: ...')


def test_an_exception_of_its_own_kind_in_a_config_gives_no_traceback(configs, tmp_path):
    def files(folder):
        (folder / 'config.py').write_text('class Stop(BaseException):\n    pass\nraise Stop("no more")\n')

    assert 'no more' in refused(configs, tmp_path, [], files=files)


def test_a_hook_of_mmengine_may_have_a_priority(configs, tmp_path):
    lay_out(configs, tmp_path, campaign.CLS, campaign.set_('custom_hooks', [
        dict(type='EmptyCacheHook', priority='LOW')]))
    assert forked('train', 'config.py', cwd=tmp_path) == (0, '')


@pytest.mark.subprocess
def test_a_process_that_may_open_few_files_says_so(configs, tmp_path):
    lay_out(configs, tmp_path, campaign.CLS, campaign.set_('train_dataloader.num_workers', 2))
    command = f'ulimit -n 40; exec {sys.executable} -m mmrev.cli train config.py'
    status, _, errors = ended(start('bash', '-c', command, cwd=tmp_path))
    assert status == 2 and 'may open 40 files' in said(errors)[0], errors


SLOW = """
import os, shutil, signal
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup make test` ignores it


@HOOKS.register_module()
class Disturb(Hook):
    def after_train_iter(self, runner, batch_idx, **kwargs):
        self.disturb(runner, os.environ['DISTURB'])

    def after_test_iter(self, runner, batch_idx, **kwargs):
        self.disturb(runner, os.environ['DISTURB'])

    def disturb(self, runner, how):
        if how in ('data', 'work_dirs'):
            shutil.rmtree(how, ignore_errors=True)
        else:
            os.kill(os.getpid(), getattr(signal, how))
"""


def disturbed(configs, folder, monkeypatch, how, *arguments):
    """Status and errors of a command with a signal to itself, or a folder that it deletes, in each iteration."""
    tested = [campaign.set_(f'test_{part}', configs[campaign.CLS][f'val_{part}'])
              for part in ('dataloader', 'cfg', 'evaluator')]
    lay_out(configs, folder, campaign.CLS, campaign.set_('custom_hooks', [dict(type='Disturb')]), campaign.set_(
        'custom_imports', dict(imports=['mmrev', 'disturb'])), *tested)
    (folder / 'disturb.py').write_text(SLOW)
    monkeypatch.setenv('DISTURB', how)
    monkeypatch.syspath_prepend(str(folder))
    return forked(*arguments, cwd=folder)


@pytest.mark.parametrize('number', ['SIGTERM', 'SIGHUP', 'SIGUSR1'])
def test_signals_that_announce_the_end_save_a_checkpoint(number, configs, tmp_path, monkeypatch):
    status, errors = disturbed(configs, tmp_path, monkeypatch, number, 'train', 'config.py')
    assert status == 143 and 'terminated. Iteration 1 is in ' in errors and '--resume' in errors, errors
    assert load_local(str(tmp_path / 'work_dirs/config/interrupted.pth'))


def test_a_test_that_is_terminated_says_so(configs, tmp_path, monkeypatch):
    status, errors = disturbed(configs, tmp_path, monkeypatch, 'SIGTERM', 'test', 'config.py',
                               campaign.GOOD[campaign.CLS] / 'epoch_1.pth')
    assert status == 143 and errors.strip().endswith('terminated. The test is not complete.'), errors


@pytest.mark.parametrize('folder', ['data', 'work_dirs'])
def test_a_folder_that_is_deleted_during_a_run_is_named(folder, configs, tmp_path, monkeypatch):
    status, errors = disturbed(configs, tmp_path, monkeypatch, folder, 'train', 'config.py')
    assert status == 1 and folder in said(errors)[0], errors
