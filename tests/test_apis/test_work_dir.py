"""Which checkpoint a run resumes from, and who may write into its folder."""
import os
import shutil
import warnings

import pytest
from mmengine.config import Config
import torch

from mmrev.apis.work_dir import choose_checkpoint, choose_work_dir, find_resumable, reserved, without_traces
from mmrev.problems import ProblemError
from mmrev.side_effects import show_warnings


def write(path, iteration, **without):
    content = dict(state_dict={}, meta=dict(epoch=1, iter=iteration), message_hub={}, optimizer=dict(state={}))
    torch.save({key: value for key, value in content.items() if key not in without}, path)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def test_the_complete_checkpoint_with_most_iterations_is_the_newest(tmp_path):
    """Whatever `last_checkpoint` says, and in whatever order a copy wrote the files."""
    for name, iteration in (('epoch_10.pth', 100), ('epoch_9.pth', 90), ('epoch_11.pth', 110)):
        write(tmp_path / name, iteration)
    write(tmp_path / 'best_accuracy_epoch_12.pth', 120, optimizer=True)  # it has none
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_9.pth'))
    assert find_resumable(str(tmp_path)) == (str(tmp_path / 'epoch_11.pth'), ())
    cut(tmp_path / 'epoch_11.pth')
    assert find_resumable(str(tmp_path)) == (str(tmp_path / 'epoch_10.pth'), ('epoch_11.pth', ))


def test_checkpoints_in_another_folder_are_found_by_last_checkpoint(tmp_path):
    run, elsewhere = tmp_path / 'run', tmp_path / 'out' / 'run'
    for folder in (run, elsewhere):
        folder.mkdir(parents=True)
    write(elsewhere / 'iter_5.pth', 5)
    (run / 'last_checkpoint').write_text(str(elsewhere / 'iter_5.pth'))
    assert find_resumable(str(run)).newest == str(elsewhere / 'iter_5.pth')


@pytest.mark.parametrize('text', ['', '\0', 'gone.pth'])
def test_a_damaged_last_checkpoint_does_not_matter(tmp_path, text):
    write(tmp_path / 'iter_5.pth', 5)
    (tmp_path / 'last_checkpoint').write_text(text)
    assert find_resumable(str(tmp_path)).newest == str(tmp_path / 'iter_5.pth')


def test_an_empty_folder_begins_at_the_beginning(tmp_path):
    assert find_resumable(str(tmp_path / 'new')) == (None, ())


def test_damaged_checkpoints_alone_are_refused(tmp_path):
    write(tmp_path / 'iter_5.pth', 5)
    cut(tmp_path / 'iter_5.pth')
    with pytest.raises(ProblemError, match='iter_5.pth cannot be read'):
        find_resumable(str(tmp_path))


def test_checkpoints_of_another_run_are_refused_with_three_ways_out(tmp_path):
    write(tmp_path / 'epoch_1.pth', 1)
    write(tmp_path / 'of_my_own.pth', 1)
    (tmp_path / 'last_checkpoint').write_text('epoch_1.pth')
    with pytest.raises(ProblemError) as caught, reserved(str(tmp_path), False, False):
        pass
    assert 'epoch_1.pth' in caught.value.what and 'of_my_own' not in caught.value.what
    assert all(way in caught.value.fix for way in ('--resume', '--work-dir', '--overwrite'))
    with reserved(str(tmp_path), resume=True, overwrite=False):
        assert (tmp_path / 'epoch_1.pth').exists()
    with reserved(str(tmp_path), resume=False, overwrite=True) as others:
        assert sorted(path.name for path in others) == ['epoch_1.pth', 'last_checkpoint']


def test_two_runs_at_once_in_one_folder_are_refused(tmp_path):
    """Until the first has ended, however it ended."""
    ready, end = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        with reserved(str(tmp_path), False, False):
            os.write(ready[1], b'.')
            os.read(end[0], 1)
            os._exit(0)  # as a kill does: without any clean-up
    os.read(ready[0], 1)
    with pytest.raises(ProblemError, match=f'another run trains into .*process {child} on'):
        with reserved(str(tmp_path), True, False):
            pass
    os.write(end[1], b'.')
    os.waitpid(child, 0)
    with reserved(str(tmp_path), True, False):
        pass


def test_further_processes_of_a_run_leave_the_folder_to_the_first(tmp_path, monkeypatch):
    write(tmp_path / 'epoch_1.pth', 1)
    monkeypatch.setenv('RANK', '1')
    with reserved(str(tmp_path), False, False):
        shutil.rmtree(tmp_path)  # it holds nothing open there


def test_where_nothing_can_be_resumed_a_training_starts_from_the_weights_that_the_config_names(tmp_path):
    cfg = Config(dict(work_dir=str(tmp_path / 'new'), load_from='weights.pth'))
    choose_checkpoint(cfg, 'auto')
    assert (cfg.resume, cfg.load_from) == (False, 'weights.pth')


def test_a_work_dir_may_lie_in_the_home_and_the_log_can_name_it(monkeypatch):
    monkeypatch.setenv('HOME', '/home/someone')
    cfg = Config(dict(work_dir='~/runs'))
    choose_work_dir(cfg, 'config.py')
    assert cfg.work_dir == '/home/someone/runs'
    monkeypatch.setattr('locale.getpreferredencoding', lambda _: 'ascii')
    with pytest.raises(ProblemError, match='written in ascii, which cannot name the work dir `läufe`'):
        choose_work_dir(cfg, 'config.py', 'läufe')


@pytest.mark.parametrize('begun', [False, True])
def test_a_refused_command_shows_no_warnings(begun, tmp_path):
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter('always')
        with pytest.raises(ProblemError), without_traces(str(tmp_path / 'refused')):
            warnings.warn('while building', stacklevel=1)
            if begun:
                show_warnings()
                warnings.warn('while training', stacklevel=1)
            raise ProblemError('no', status=1 if begun else 2)
        with without_traces(str(tmp_path / 'run')):
            warnings.warn('of another command', stacklevel=1)
            assert len(shown) == 2 * begun
        warnings.warn('afterwards', stacklevel=1)
    expected = ['while building', 'while training'] * begun + ['of another command', 'afterwards']
    assert [str(each.message) for each in shown] == expected
