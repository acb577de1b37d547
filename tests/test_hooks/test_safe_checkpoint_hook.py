"""A run that is killed, terminated or out of disk space at any moment goes on from its newest complete checkpoint."""
import errno
import os
import resource
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.fileio import LocalBackend
from mmengine.hooks import Hook

from mmrev.apis.work_dir import find_resumable
from mmrev.hooks import SafeCheckpointHook
from mmrev.hooks.safe_checkpoint_hook import _Deferring
from mmrev.problems import ProblemError, Terminated
from support.runs import train_regression

KEPT = dict(checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=1))


class At(Hook):
    """Does something after an iteration."""

    def __init__(self, iteration, action):
        self.iteration, self.action = iteration, action

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.iteration:
            self.action()


def train(work_dir, epochs=3, hooks=(), **kwargs):
    """Two iterations in each epoch; the output of the trained network."""
    return train_regression(work_dir, epochs, [SafeCheckpointHook(), *hooks], default_hooks=KEPT, **kwargs)[0]


def in_child(function):
    """How a fork of this process ends that runs a function: by an exit status, or minus a signal."""
    child = os.fork()
    if child == 0:
        status = 99
        try:
            function()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def names(folder):
    return sorted(path.name for path in Path(folder).iterdir() if '.pth' in path.name)


@pytest.mark.parametrize('share', [0., 0.5, 1.])
def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(tmp_path, share):
    """With `max_keep_ckpts=1`; what is written of the next one is a part, or all of it under another name."""

    def run_until_killed():
        put, written = LocalBackend.put, []

        def killed(backend, content, filepath):
            written.append(filepath)
            put(backend, content[:int(share * len(content))] if len(written) == 2 else content, filepath)
            if len(written) == 2:
                os.kill(os.getpid(), signal.SIGKILL)

        LocalBackend.put = killed
        train(tmp_path)

    assert in_child(run_until_killed) == -signal.SIGKILL
    assert names(tmp_path) == ['epoch_1.pth', 'epoch_2.pth.part']
    newest, skipped = find_resumable(str(tmp_path))
    assert newest == str(tmp_path / 'epoch_1.pth') and not skipped
    resumed = train(tmp_path, resume=True, load_from=newest)
    assert torch.equal(resumed, train(tmp_path / 'uninterrupted'))
    assert names(tmp_path) == ['epoch_3.pth']


def test_a_kill_before_older_checkpoints_are_deleted_leaves_both(tmp_path):
    def run_until_killed():
        def killed(hook, written):
            if written.name == 'epoch_2.pth':
                os.kill(os.getpid(), signal.SIGKILL)

        SafeCheckpointHook._delete_outdated = killed
        train(tmp_path)

    assert in_child(run_until_killed) == -signal.SIGKILL
    assert names(tmp_path) == ['epoch_1.pth', 'epoch_2.pth']
    assert (tmp_path / 'last_checkpoint').read_text().endswith('epoch_1.pth')
    assert find_resumable(str(tmp_path)).newest == str(tmp_path / 'epoch_2.pth')


def test_files_outside_of_the_folder_of_a_run_are_never_deleted(tmp_path):
    (tmp_path / 'A').mkdir()
    (tmp_path / 'B').mkdir()
    outdated = []
    backend = _Deferring(LocalBackend(), outdated, tmp_path / 'B')
    for folder in 'AB':
        path = tmp_path / folder / 'best.pth'
        path.touch()
        if backend.isfile(str(path)):  # as CheckpointHook does, which finds the path in the message hub of a checkpoint
            backend.remove(str(path))
    assert outdated == [tmp_path / 'B/best.pth']


def test_a_full_disk_names_the_file_and_its_size_and_keeps_the_last_good_one(tmp_path):
    size = 0

    def limit():
        nonlocal size
        size = (tmp_path / 'epoch_1.pth').stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))

    def run():
        with pytest.raises(ProblemError) as caught:
            train(tmp_path, hooks=[At(3, limit)])
        assert 'epoch_2.pth` (about 0 MB): File too large' in caught.value.what, caught.value.what
        assert 'epoch_1.pth are complete' in caught.value.fix and caught.value.status == 1

    assert in_child(run) == 0
    assert names(tmp_path) == ['epoch_1.pth']
    torch.load(tmp_path / 'epoch_1.pth', weights_only=False)


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_or_a_quota_that_turns_out_full_at_the_end_of_a_file_is_named(number, tmp_path, monkeypatch):
    def fill():
        def fsync(_):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, 'fsync', fsync)

    with pytest.raises(ProblemError) as caught:
        train(tmp_path, hooks=[At(3, fill)])
    assert f'epoch_2.pth` (about 0 MB): {os.strerror(number)}' in caught.value.what and caught.value.status == 1
    assert names(tmp_path) == ['epoch_1.pth'] and torch.load(tmp_path / 'epoch_1.pth', weights_only=False)


@pytest.mark.parametrize('iteration', [1, 2, 3, 5])
def test_sigterm_saves_a_checkpoint_from_which_the_same_weights_result(tmp_path, iteration):
    """Within an epoch and at its end."""
    terminate = At(iteration, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Terminated, match=f'Iteration {iteration} is in .*interrupted.pth'):
        train(tmp_path, hooks=[terminate])
    newest, _ = find_resumable(str(tmp_path))
    assert newest == str(tmp_path / 'interrupted.pth')
    assert (tmp_path / 'last_checkpoint').read_text() == newest
    seen = []
    resumed = train(tmp_path, resume=True, load_from=newest, hooks=[At(iteration + 1, lambda: seen.append(iteration))])
    assert torch.equal(resumed, train(tmp_path / 'uninterrupted')) and seen
    assert names(tmp_path) == ['epoch_3.pth']


def test_after_a_training_sigterm_ends_the_process_as_before(tmp_path):
    train(tmp_path, epochs=1)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize('iteration', [3, 4, 5])
def test_an_exception_that_ends_a_training_saves_what_was_trained(tmp_path, iteration):
    """Unless a checkpoint has just been saved; and the exception is the one that is reported."""

    def fail():
        raise ProblemError('reading a sample', 'Fix it', 1)

    with pytest.raises(ProblemError, match='reading a sample') as caught:
        train(tmp_path, hooks=[At(iteration, fail)])
    done = iteration - 1  # the failing one is done again
    newest, _ = find_resumable(str(tmp_path))
    assert torch.load(newest, weights_only=False)['meta']['iter'] == done
    assert newest.endswith('interrupted.pth' if done == 3 else f'epoch_{done // 2}.pth')
    assert (f'Iteration {done} is in' in caught.value.fix) is (done == 3)


def test_only_the_main_process_renames_what_it_writes(tmp_path, monkeypatch):
    """Another process that arrives while the file is complete under its temporary name leaves it there."""
    (tmp_path / 'epoch_1.pth.part').write_bytes(b'complete')
    runner = SimpleNamespace(save_checkpoint=lambda *args, **kwargs: None, _train_loop=None)
    monkeypatch.setattr('mmrev.hooks.safe_checkpoint_hook.is_main_process', lambda: False)
    SafeCheckpointHook().before_run(runner)
    runner.save_checkpoint(str(tmp_path), 'epoch_1.pth')
    assert names(tmp_path) == ['epoch_1.pth.part']


@pytest.fixture
def interruptible():
    """As in a terminal; a shell starts its background jobs with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_while_a_checkpoint_is_written_waits_until_it_is_complete(tmp_path, monkeypatch, interruptible):
    """mmengine's formatting of the config, which is part of writing, turns `KeyboardInterrupt` into another error."""

    def interrupted(config):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise SyntaxError('Failed to format the config file') from error
        return ''

    def interrupt_later():
        monkeypatch.setattr('mmengine.config.Config.pretty_text', property(interrupted))

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, hooks=[At(1, interrupt_later)])
    assert names(tmp_path) == ['epoch_1.pth']
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
