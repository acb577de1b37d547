"""The work dir of a training: find the checkpoint to resume, lock the folder, protect checkpoints of other runs."""
import contextlib
import locale
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Iterator, List, NamedTuple, Optional, Tuple

from mmrev.problems import ProblemError, phase

if TYPE_CHECKING:
    from mmengine.config import Config

_LOCK = '.lock'
_REWRITTEN = '.py', '.json', '.yaml'  # the config of a run, and its plan
_LOGS = re.compile(r'\d{8}_\d{6}|[^.].*\.py')  # what a run writes before it begins
_WRITTEN = re.compile(r'(epoch_\d+|iter_\d+|best_.*|interrupted)\.pth$')


class Resumable(NamedTuple):
    """The newest complete checkpoint, if any, and the names of files that cannot be read."""
    newest: Optional[str]
    skipped: Tuple[str, ...]


def choose_work_dir(cfg: 'Config', file: str, given: Optional[str] = None) -> None:
    """Set the work dir: the one of the command line, of the config, or ``work_dirs/CONFIG``.

    Raises:
        ProblemError: If that of the config names no folder, or the log cannot name it in the encoding of the locale.
    """
    work_dir = given or cfg.get('work_dir')
    if not isinstance(work_dir, (str, type(None))) or work_dir == '':
        raise ProblemError(f'`work_dir` is {work_dir!r}, which names no folder', 'Name one with --work-dir, or leave '
                           'it out for work_dirs/CONFIG')
    cfg.work_dir = os.path.join('work_dirs', Path(file).stem) if work_dir is None else os.path.expanduser(work_dir)
    encoding = locale.getpreferredencoding(False)
    try:
        os.path.abspath(cfg.work_dir).encode(encoding)
    except UnicodeEncodeError as error:
        raise ProblemError(f'the log is written in {encoding}, which cannot name the work dir `{cfg.work_dir}`',
                           'Set PYTHONUTF8=1, or name another --work-dir') from error


def choose_checkpoint(cfg: 'Config', resume: Optional[str] = None) -> Tuple[str, ...]:
    """Set what a training starts from.

    Args:
        cfg: The config; ``resume`` and ``load_from`` are set.
        resume: A checkpoint to resume from, or ``'auto'``: the newest in the work dir, if there is one; without it, the
            training starts from ``load_from``.

    Returns:
        Names of checkpoints that cannot be read.
    """
    if resume not in (None, 'auto'):
        cfg.update(resume=True, load_from=resume)
    elif resume or cfg.get('resume') is True and not cfg.get('load_from'):
        newest, skipped = find_resumable(cfg.work_dir)
        cfg.update(resume=bool(newest) or not cfg.get('load_from'), load_from=newest or cfg.get('load_from'))
        return skipped
    return ()


def find_resumable(work_dir: str) -> Resumable:
    """Find the complete checkpoint with the most iterations, in a work dir and the folder of its ``last_checkpoint``.

    Raises:
        ProblemError: If there are checkpoints, and none can be read.
    """
    from mmrev.checkpoints import load_local, not_resumable
    named = _named(work_dir)
    found, skipped = [], [] if named is None or named.is_file() else [named.name]
    for folder in {Path(work_dir).absolute(), *([named.absolute().parent] if named else [])}:
        for path in _checkpoints(folder):
            try:
                content = load_local(str(path))
            except ProblemError:
                skipped.append(path.name)
                continue
            if not not_resumable(content):  # the best ones are without an optimizer
                found.append((content['meta']['iter'], str(path)))
    if skipped and not found:
        raise ProblemError(f'no checkpoint in `{work_dir}` can be resumed: {", ".join(sorted(skipped))} cannot be read',
                           'Start again: --overwrite without --resume; or train into another --work-dir')
    return Resumable(max(found)[1] if found else None, tuple(sorted(skipped)))


@contextlib.contextmanager
def reserved(work_dir: str, resume: bool, overwrite: bool) -> Iterator[List[Path]]:
    """Reserve a work dir for this run.

    Args:
        work_dir: The folder, which is created.
        resume: Whether its checkpoints belong to this run.
        overwrite: Whether checkpoints of another run may be deleted.

    Yields:
        Files of another run, to delete after this run has begun.

    Raises:
        ProblemError: If another run is active in the folder, or it contains checkpoints of another run.
    """
    if os.environ.get('RANK', '0') != '0':  # the first process does it for all
        yield []
        return
    with phase(f'looking into `{work_dir}`', 'Name another folder with --work-dir FOLDER'):
        others = [] if resume else [path.name for path in _checkpoints(Path(work_dir))]
    if others and not overwrite:
        raise ProblemError(f'`{work_dir}` holds checkpoints of another run: {", ".join(others[:3])}'
                           + ', ...' * (len(others) > 3),
                           'Continue it: --resume; train elsewhere: --work-dir FOLDER; delete them: --overwrite')
    with without_traces(work_dir), contextlib.ExitStack() as stack:
        with phase(f'locking `{work_dir}`', 'Name another folder with --work-dir FOLDER'):
            lock = stack.enter_context(open(Path(work_dir, _LOCK), 'a+', encoding='utf-8'))
        _lock(lock, work_dir)
        yield [Path(work_dir, name) for name in others + ['last_checkpoint'] * bool(others)]


@contextlib.contextmanager
def without_traces(work_dir: str) -> Iterator[None]:
    """Create a work dir. If the command fails before the run begins, delete what was written, and show no warnings."""
    from mmrev.side_effects import warnings_held
    if os.environ.get('RANK', '0') != '0':
        yield
        return
    folder = Path(work_dir).absolute()
    with phase(f'making the work dir `{work_dir}`', 'Name another one: --work-dir FOLDER'):
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        before = {path.name: path.read_bytes() if path.is_file() and path.suffix in _REWRITTEN else b''
                  for path in folder.iterdir()}
    try:
        with warnings_held():
            yield
    except ProblemError as error:
        if error.status == 2:
            for path in folder.iterdir():
                if path.name not in before and path.is_dir() and _LOGS.fullmatch(path.name):
                    shutil.rmtree(path, ignore_errors=True)
                elif path.name not in before and (path.name == _LOCK or _LOGS.fullmatch(path.name)):
                    path.unlink()
                elif before.get(path.name) and path.read_bytes() != before[path.name]:
                    path.write_bytes(before[path.name])
            with contextlib.suppress(OSError):  # it contains other files
                for path in made:
                    path.rmdir()
        raise


def _lock(file, work_dir: str) -> None:
    """Lock a file while this process lives; its children do not inherit the lock."""
    try:
        import fcntl
    except ImportError:  # on Windows
        return
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.seek(0)
        raise ProblemError(f'another run trains into `{work_dir}` ({file.read().strip() or "unknown"})',
                           'Wait until it has ended, or train into another --work-dir') from error
    file.truncate(0)
    file.write(f'process {os.getpid()} on {os.uname().nodename}')
    file.flush()


def _checkpoints(folder: Path) -> List[Path]:
    """Checkpoints that a training writes; the folder may contain other files of the user."""
    return sorted(path for path in folder.glob('*.pth') if _WRITTEN.match(path.name) and path.is_file())


def _named(work_dir: str) -> Optional[Path]:
    try:
        name = Path(work_dir, 'last_checkpoint').read_text(encoding='utf-8').strip()
    except (OSError, UnicodeDecodeError):
        return None
    return Path(name) if name and '\0' not in name else None
