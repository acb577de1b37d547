"""What would fail late, hang or end in a traceback is named at the start, or does no harm."""
import argparse
import os
import re
import shutil
import sys

import pytest

from mmrev.checkpoints import load_local
from mmrev.cli.common import run_command
from support.commands import forked, printed, said

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
                                    'first: Failed to read image images/2.png.')
    predicted = re.findall(r'^images/(\d).png: ', (tmp_path / 'output').read_text(), re.MULTILINE)
    assert predicted == ['1', '3', '5']


def test_a_command_ends_well_where_standard_output_is_closed(monkeypatch):
    monkeypatch.setattr(sys, 'stdout', None)
    assert run_command(argparse.ArgumentParser(), lambda args: print('text'), []) == 0
