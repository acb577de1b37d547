"""What would fail late, hang or end in a traceback is named at the start, or does no harm."""
import os

import pytest

from mmrev.checkpoints import load_local
from support.commands import forked

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
