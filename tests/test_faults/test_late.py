"""What would fail late, hang or end in a traceback is named at the start, or does no harm."""
import os

import pytest

from mmrev.checkpoints import load_local
from support.commands import forked, printed

from . import campaign


@pytest.fixture(scope='module')
def configs(tmp_path_factory):
    """The good configs; a checkpoint of the classifier lies in `campaign.GOOD`."""
    return campaign.prepare(tmp_path_factory.mktemp('good'))


def lay_out(configs, folder, base, *changes, files=lambda folder: None):
    """Write a config with changes, its data, and change the files."""
    campaign.lay_out(campaign.Fault('', base, campaign.both(*changes), files), configs, folder)


def test_a_training_goes_on_when_the_reader_of_its_output_ends(configs, tmp_path):
    lay_out(configs, tmp_path, campaign.CLS)
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, 'wb') as output:
        status, errors = forked('train', 'config.py', cwd=tmp_path, output=output)
    assert status == 0 and not errors
    log, = (tmp_path / 'work_dirs/config').glob('*/*.log')
    assert 'Epoch(val) [1]' in log.read_text() and load_local(str(tmp_path / 'work_dirs/config/epoch_1.pth'))


def test_a_resumed_run_says_which_values_of_the_config_its_checkpoint_replaces(configs, tmp_path):
    """With OneCycleLR, whose state has a method that a safe `torch.load` refuses."""
    schedule = dict(type='OneCycleLR', eta_max=0.1, total_steps=9, by_epoch=False)
    lay_out(configs, tmp_path, campaign.CLS, campaign.set_('param_scheduler', schedule))
    assert forked('train', 'config.py', cwd=tmp_path) == (0, '')
    said = printed('train', 'config.py', '--resume', '--cfg-options', 'train_cfg.max_epochs=2',
                   'optim_wrapper.optimizer.weight_decay=0.1', 'param_scheduler.eta_max=0.2', cwd=tmp_path)
    assert 'AdamW (the optimizer) continues with values of the checkpoint: weight_decay=0.05 (config: 0.1)' in said
    assert 'OneCycleLR (schedule 0) continues with values of the checkpoint: eta_max=0.1 (config: 0.2)' in said
    assert 'Epoch(val) [2]' in said
