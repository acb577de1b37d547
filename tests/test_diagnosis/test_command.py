"""What is wrong with a command line or the text of a config: two lines, status 2, nothing written."""
import sys

import pytest
from mmengine.config import Config

from mmrev.apis.run import merge_options
from mmrev.cli import main
from support.commands import ROOT, ended, mmrev, option, said, start

MISTAKES = {
    'a folder for a config': (['train', 'data'], 'config `data` is a folder', 'no config in it'),
    'a folder of configs': (['train', '.'], 'config `.` is a folder', 'good.py'),
    'an empty work dir': (['train', 'good.py', '--work-dir', ''], 'argument `work-dir` is empty', 'leave it out'),
    'a config that is not there': (['train', 'god.py'], 'config `god.py` does not exist', '`good.py`'),
    'a base that is not there': (['train', 'no_base.py'], 'nowhere.py', '_base_'),
    'a base that mmdet does not have': (['train', 'no_mmdet_base.py'], 'nowhere.py', '_base_'),
    'a syntax error': (['train', 'no_python.py'], 'no_python.py', 'Fix'),
    'a flag that is not there': (['train', 'good.py', '--wrok-dir', 'x'], '--wrok-dir', '--help'),
    'no config': (['train'], 'config', '--help'),
    'a command that is not there': (['trian'], '`trian`', 'train, test'),
    'a launcher that did not start it': (['train', 'good.py', '--launcher', 'mpi'], 'OMPI_COMM_WORLD_RANK', 'mpirun'),
    'an option without value': (option('train_cfg'), '--cfg-options train_cfg: ', 'KEY=VALUE'),
    'an option with an empty key': (option('model..type=x'), "unexpected keyword argument ''", 'model.KEY=VALUE'),
    'an option with open brackets': (option('a=[1,(2'), 'a=[1,(2', 'quote'),
    'an option below a number': (option('train_cfg.max_epochs.x=1'), 'train_cfg.max_epochs', 'good.py'),
    'an option of a section that is not there': (option('optim_wraper.optimizer.lr=1'), '`optim_wraper`',
                                                 '`optim_wrapper`'),
    'an option that nothing reads': (option('seed=3'), 'no `seed`', 'whole path'),
    'an option for a variable that was read': (option("CLASSES=['a','b']"), 'has already used the variable `CLASSES`',
                                               'whole path'),
    'an option past the end of a list': (option('train_dataloader.dataset.pipeline.9.scale=3'), 'Index 9', 'good.py'),
    'an import that is not there': (option('custom_imports.imports=no_such_module'), 'no_such_module', 'PYTHONPATH'),
    '--amp in place of another wrapper': (['train', 'good.py', '--amp', '--cfg-options',
                                           'optim_wrapper.type=ApexOptimWrapper'], '`ApexOptimWrapper`', '--amp'),
    'memory of no image': (['memory', 'good.py', '--batch', '0'], '--batch', 'above 0'),
    'a work dir whose name is too long': (['train', 'good.py', '--work-dir', 300 * 'x'], 'File name too long',
                                          '--work-dir FOLDER'),
    'nothing to resume and nothing to start from': (
        [*option('load_from=nowhere.pth'), '--resume', '--work-dir', 'new'], '`nowhere.pth` does not exist', ''),
    'an --out that is no pickle': (['test', 'good.py', 'other.pth', '--out', 'x.json'], 'x.json', '.pkl'),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_it_is_named_with_a_way_out_and_nothing_is_written(mistake, refused):
    refused(*MISTAKES[mistake])


@pytest.mark.subprocess
@pytest.mark.parametrize('mistake', ['a config that is not there', 'a launcher that did not start it'])
def test_a_process_of_its_own_says_the_same(mistake, folder):
    arguments, problem, fix = MISTAKES[mistake]
    status, output, errors = ended(start(*mmrev(*arguments), cwd=folder))
    assert (status, output) == (2, '')
    assert problem in said(errors)[0] and fix in said(errors)[1]


@pytest.mark.subprocess
def test_several_processes_say_it_once(folder):
    arguments = option('model.backbone.arch=s9')[1:]
    status, _, errors = ended(start(ROOT / 'tools/dist_train.sh', arguments[0], 2, *arguments[1:], cwd=folder))
    assert status == 2
    assert 's9' in said(errors)[0] and 'good.py' in said(errors)[1]


def test_the_traceback_is_there_for_who_asks(folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    assert main([*option('model.backbone.arch=s9'), '--traceback']) == 2
    errors = capfd.readouterr().err
    assert 'Traceback' in errors and 'ValueError' in errors


def test_an_option_of_custom_imports_is_imported(folder, tmp_path, monkeypatch):
    (tmp_path / 'module_of_the_user.py').write_text('')
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(tmp_path)
    cfg = Config.fromfile('good.py')
    merge_options(cfg, {'custom_imports.imports': ['mmrev', 'module_of_the_user']}, 'good.py')
    assert 'module_of_the_user' in sys.modules


def test_check_names_everything_at_once(folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    mistakes = ('train_cfg.val_begin=-1', 'train_dataloader.dataset.ann_file=x.json', 'log_level=LOUD',
                'val_evaluator.metric=bboxx', 'default_hooks.timer.type=IterTimmerHook')
    assert main(['check', 'good.py', '--cfg-options', *mistakes]) == 2
    output, errors = capfd.readouterr()
    for named in ('val_begin` is -1, which must be', 'x.json` does not exist', "'LOUD'", 'bboxx', '`IterTimerHook`'):
        assert named in output
    assert said(errors)[0].endswith('5 problems in good.py')


def test_check_has_nothing_to_say_of_a_good_config(folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    assert main(['check', 'good.py']) == 0
    assert capfd.readouterr().out == 'No problem found in good.py\n'
