"""Keep checkpoints intact when a run is killed or terminated, or the disk is full."""
import contextlib
import errno
import functools
import os
import re
import signal
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any, Callable, Iterator, List, Sequence

from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import CheckpointHook, Hook, LoggerHook
from mmengine.runner import BaseLoop, EpochBasedTrainLoop
from mmengine.utils import apply_to
from torch.nn.parallel import DistributedDataParallel

from mmrev.problems import ProblemError, Terminated, phase
from mmrev.registry import HOOKS
from mmrev.side_effects import try_writing

INTERRUPTED = 'interrupted.pth'
# Of clusters, terminals, Slurm; Windows has the first alone.
_SIGNALS = [getattr(signal, name) for name in ('SIGTERM', 'SIGHUP', 'SIGUSR1') if hasattr(signal, name)]
_LONGEST = 240  # bytes of a name, to which the number and `.part` are added
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@HOOKS.register_module()
class SafeCheckpointHook(Hook):
    """Write checkpoints to a temporary file, and delete older ones only after the new one is complete.

    On SIGTERM, which clusters send before they end a job, SIGHUP and SIGUSR1, the hook writes ``interrupted.pth``
    after the current iteration and ends the run. An exception that ends the training writes it as well. A run that
    resumes from this file continues the epoch with the next batch.

    Args:
        others: Files of another run, which are deleted after the first iteration.

    Raises:
        ProblemError: If the disk is full; the older checkpoints are kept.
        Terminated: After SIGTERM.
    """

    priority = 'LOWEST'  # after `CheckpointHook`

    def __init__(self, others: Sequence[Path] = ()) -> None:
        self._others = list(others)
        self._outdated: List[Path] = []
        self._saved = 0  # iterations in the newest checkpoint
        self._terminated = False

    def before_run(self, runner) -> None:
        """Wrap the runner's ``save_checkpoint``, and the training loop to save a checkpoint after an exception."""
        runner.save_checkpoint = functools.partial(self._write, runner, runner.save_checkpoint)
        if isinstance(runner._train_loop, BaseLoop):
            runner._train_loop.run = functools.partial(self._run, runner, runner._train_loop.run)

    def before_train(self, runner) -> None:
        """Defer the deletion of older checkpoints, and skip the batches that an interrupted epoch has completed.

        Raises:
            ProblemError: If all checkpoints of a `CheckpointHook` would have one name, or cannot be written.
        """
        for template in (hook.filename_tmpl for hook in runner.hooks if isinstance(hook, CheckpointHook)):
            if template is not None and re.fullmatch(r'[^{}\0]*{}[^{}\0]*', str(template)) is None:
                raise ProblemError(f'`filename_tmpl` of CheckpointHook is {template!r}, without the one {{}} for the '
                                   "number", "Write it as 'epoch_{}.pth', or leave it out")
            if len(os.fsencode(template or '')) > _LONGEST:
                raise ProblemError(f'`filename_tmpl` of CheckpointHook has {len(template)} characters, and file names '
                                   f'at most {_LONGEST}', "Write it as 'epoch_{}.pth', or leave it out")
        for hook in runner.hooks:
            if isinstance(hook, (CheckpointHook, LoggerHook)) and '://' not in (hook.out_dir or '://'):
                with phase(f'writing to `{hook.out_dir}`', f'Fix `out_dir` of {type(hook).__name__}'):
                    try_writing(hook.out_dir)
            if isinstance(hook, CheckpointHook) and '://' not in hook.out_dir:
                hook.file_backend = _Deferring(hook.file_backend, self._outdated, Path(hook.out_dir))
        if is_main_process():
            for part in Path(runner.work_dir).glob('*.part'):
                part.unlink()
        self._outdated += Path(runner.work_dir).glob(INTERRUPTED)
        self._saved = runner.iter
        loop = runner.train_loop
        if isinstance(loop, EpochBasedTrainLoop):
            done = loop.iter - loop.epoch * len(loop.dataloader)
            if 0 <= done <= len(loop.dataloader):
                _skip(loop, done)
            else:
                runner.logger.warning(
                    f'the checkpoint is of iteration {loop.iter} in epoch {loop.epoch + 1}, and an epoch has '
                    f'{len(loop.dataloader)} iterations now: data or batch size have changed; it starts at the '
                    f'beginning of the epoch')
            if loop.epoch >= loop.max_epochs:
                runner.logger.warning(f'{loop.epoch} of {loop.max_epochs} epochs are done already: nothing is trained')
        self._heed(self._note)

    def after_train(self, runner) -> None:
        """Restore the default actions of the signals."""
        self._heed(signal.SIG_DFL)

    def before_test(self, runner) -> None:
        """End a test after SIGTERM with a message."""
        self._heed(self._note)

    after_test = after_train

    def _heed(self, action: Any) -> None:
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as with nohup
                signal.signal(number, action)

    def _note(self, number: int, frame: Any) -> None:
        self._terminated = True

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Delete the files of another run; end this run after SIGTERM."""
        self._delete_others()
        self._end(runner, runner.iter + 1)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """End the run after SIGTERM."""
        self._end(runner, runner.iter)

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """End the test after SIGTERM."""
        if self._terminated:
            raise Terminated('The test is not complete.')

    def _end(self, runner, iteration: int) -> None:
        if self._terminated:
            raise Terminated(f'Iteration {iteration} is in {self._interrupt(runner, iteration)}.')

    def _run(self, runner, run: Callable[[], Any]) -> Any:
        try:
            return run()
        except Exception as error:
            # Sharded weights would have to be gathered from processes that may have ended.
            whole = get_world_size() == 1 or isinstance(runner.model, DistributedDataParallel)
            if whole and runner.iter > self._saved:
                with contextlib.suppress(Exception):  # the error that ended the run is the one to report
                    file = self._interrupt(runner, runner.iter)
                    if isinstance(error, ProblemError):
                        error.fix = f'{error.fix}{". " * bool(error.fix)}Iteration {runner.iter} is in {file}'
            raise

    def _interrupt(self, runner, iteration: int) -> str:
        """Save a checkpoint for ``--resume``; return its relative path."""
        file = Path(runner.work_dir, INTERRUPTED)
        runner.save_checkpoint(runner.work_dir, INTERRUPTED, by_epoch=False,
                               meta=dict(epoch=runner.epoch, iter=iteration, interrupted=True))
        if is_main_process():
            Path(runner.work_dir, 'last_checkpoint').write_text(str(file))
        return os.path.relpath(file)

    def _write(self, runner, save, out_dir: str, filename: str, *args: Any, **kwargs: Any) -> None:
        with _ctrl_c_deferred(), phase(f'writing `{filename}` in `{out_dir}`', status=1):
            self._delete_others()  # the first checkpoint may have the name of one of them
            if '://' in str(out_dir):
                save(out_dir, filename, *args, **kwargs)
                return
            part, whole = Path(out_dir, f'{filename}.part'), Path(out_dir, filename)
            try:
                save(out_dir, part.name, *args, **kwargs)
                if is_main_process() and part.is_file():  # a strategy may write a folder
                    _move(part, whole)
            except OSError as error:
                if is_main_process():
                    part.unlink(missing_ok=True)
                if error.errno not in _FULL:
                    raise
                kept = sorted(path.name for path in whole.parent.glob('*.pth'))
                raise ProblemError(
                    f'writing `{whole}` (about {_megabytes(runner):,.0f} MB): {error.strerror}',
                    f'Free some space, then continue with --resume. {", ".join(kept)} are complete' if kept
                    else 'Free some space, or train into another --work-dir', 1) from error
            if kwargs.get('save_optimizer', True):  # the best checkpoint has no optimizer
                self._saved = (kwargs.get('meta') or {}).get('iter', self._saved)
            self._delete_outdated(whole)

    def _delete_others(self) -> None:
        while self._others:
            self._others.pop().unlink(missing_ok=True)

    def _delete_outdated(self, written: Path) -> None:
        while self._outdated:
            path = self._outdated.pop()
            if is_main_process() and path != written and path.is_file():
                path.unlink()


class _Deferring:
    """A file backend that collects the files to delete instead of deleting them.

    It keeps what is outside of `folder`: a run that resumes from the checkpoint of another run, in another folder,
    would delete the best checkpoint of that run once it has a better one.
    """

    def __init__(self, backend: Any, outdated: List[Path], folder: Path):
        self._backend = backend
        self._outdated = outdated
        self._folder = folder.resolve()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def isfile(self, path: str) -> bool:
        return self._is_own(path) and self._backend.isfile(path)

    def isdir(self, path: str) -> bool:
        return self._is_own(path) and self._backend.isdir(path)

    def _is_own(self, path: str) -> bool:
        return self._folder in Path(path).resolve().parents

    def remove(self, path: str) -> None:
        self._outdated.append(Path(path))


@contextlib.contextmanager
def _ctrl_c_deferred() -> Iterator[None]:
    """Defer `KeyboardInterrupt` to the end of the block, in which mmengine would treat it as an error of the config."""
    noted: List[int] = []
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler and current_thread() is main_thread()
    if ours:
        signal.signal(signal.SIGINT, lambda number, frame: noted.append(number))
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    if noted:
        raise KeyboardInterrupt


def _move(part: Path, whole: Path) -> None:
    """Rename a file after its content has been written to the disk."""
    for path in (part, whole.parent):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if path == part:
            os.replace(part, whole)


def _skip(loop: EpochBasedTrainLoop, number: int) -> None:
    """Skip the first batches of the next epoch; they are loaded, so that later ones stay the same."""
    run_iter, epoch = loop.run_iter, loop.epoch

    def run_the_rest(index: int, batch: Any) -> None:
        if loop.epoch > epoch or index >= number:
            run_iter(index, batch)

    if number > 0:
        loop.run_iter = run_the_rest


def _megabytes(runner) -> float:
    """Size of the tensors in a checkpoint."""
    sizes: List[int] = []
    apply_to([runner.model.state_dict(), runner.optim_wrapper.state_dict()], lambda x: hasattr(x, 'element_size'),
             lambda x: sizes.append(x.numel() * x.element_size()))
    return sum(sizes) / 1e6
