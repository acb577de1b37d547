"""The commands besides training, and texts of configs: malformed inputs end in at most three lines, nothing written."""
import pytest

from support.commands import import_commands

pytest.importorskip('mmseg')

from . import campaign, command_faults  # noqa: E402

FAULTS = command_faults.faults()
BY_NAME = {fault.name: fault for fault in FAULTS}
SAMPLE = FAULTS[::3]
SAID = {  # an input, and a part of what is said of it
    'predict: only a device': '`in/1.png`; of the first one, it is no regular file',
    'predict: only broken images': '3 of 3 images cannot be read or predicted',
    "predict: image ''": 'is empty',
    'predict: a folder in place of 1.png': '`out/1.png` is a folder',
    'predict: val_dataloader.dataset.pipeline = []': '`test_dataloader.dataset.pipeline` of config.py is []',
    'predict: default_scope = []': '`default_scope` of the config is `[]`',
    'test: out a folder': '--out `x.pkl` is a folder',
    f'test: out {"a" * 30!r} of 259': 'File name too long',
    'test: show-dir \'/proc/x\'': 'writing to --show-dir',
    "test: dumped to 'data'": 'Fix its `out_file_path`',
    'test: tta_model = 3': '`tta_model` of the config is 3',
    'test: a class less': 'num_classes=2, test_dataloader has 1 classes',
    'test: classes in another order': 'another order than those of the checkpoint',
    'test: masks as images': 'is an image of test_dataloader, and a mask as well',
    'command: publish good.pth --out data': '`data` is a folder',
    "memory: optim_wrapper = 'x'": 'optim_wrapper',
    'text, train: UTF-16': '`config.py` is no text in UTF-8: byte 0 is 0xff',
    'text, train: a byte order mark': 'without a byte order mark',
    'text, train: a circle': 'config.py -> other.py -> config.py',
    "text, train: base ['no.py', 'nope.py']": '`no.py`, a `_base_` of `config.py`, does not exist',
    'text, train: base None': '`_base_` of `config.py` is None',
    'text, train: a base with a mistake': '`b.py`, line 2: invalid syntax: `b = a +`',
    'text, train: a base that fails': '`b.py`, line 2: division by zero',
    'text, train: an array': 'not call them',
    'text, train: exits with 3': '`config.py`, line 2: SystemExit: 3',
    "text '[1]' in c.json": "`c.json` holds '[1]'",
    'text \'a: !!python/object/apply:os.system ["touch written"]\' in c.yaml': '`c.yaml` cannot be parsed',
}


@pytest.fixture(scope='module')
def configs(tmp_path_factory):
    """Write data and checkpoints."""
    import_commands('mmdet', 'mmpretrain', 'mmseg')
    return command_faults.prepare(tmp_path_factory.mktemp('good'))


@pytest.mark.slow
@pytest.mark.parametrize('name', SAID)
def test_what_is_wrong_is_named(name, configs, tmp_path):
    wrong, errors = campaign.run(BY_NAME[name], configs, tmp_path / 'run')
    assert not wrong and SAID[name] in errors, f'{wrong}\n{errors}'


@pytest.mark.faults
@pytest.mark.parametrize('fault', SAMPLE, ids=lambda fault: fault.name[:80])
def test_it_ends_in_two_lines_with_nothing_written_or_succeeds(fault, configs, tmp_path):
    wrong, errors = campaign.run(fault, configs, tmp_path / 'run', legitimate=command_faults.LEGITIMATE)
    assert not wrong, f'{fault.name}: {wrong}\n{errors}'


@pytest.mark.slow
def test_training_in_the_folder_of_a_config_keeps_its_text(configs, tmp_path):
    def comment(folder):
        file = folder / 'config.py'
        file.write_text(file.read_text() + '# by hand\n')

    campaign.lay_out(campaign.Fault('', campaign.CLS, break_files=comment), configs, tmp_path)
    status, errors = campaign.forked('train', 'config.py', '--work-dir', '.', cwd=tmp_path)
    assert status == 0 and (tmp_path / 'config.py').read_text().endswith('# by hand\n'), errors
