"""Commands in processes of their own, and what they say of a mistake."""
import contextlib
import gc
import importlib
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from functools import lru_cache
from pathlib import Path

from mmengine.config import Config
from mmengine.utils import ManagerMixin

from mmrev.cli import main

ROOT = Path(__file__).parents[2]


def start(*command, cwd, merge=False) -> subprocess.Popen:
    """Start a command as a user would in `cwd`; its output and, unless merged with it, its errors are kept as text."""
    environment = dict(os.environ, PYTHON=sys.executable, PYTHONUNBUFFERED='1', OMP_NUM_THREADS='1')
    return subprocess.Popen([str(part) for part in command], cwd=cwd, env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT if merge else subprocess.PIPE,
                            preexec_fn=_heed_interrupts)


def _heed_interrupts() -> None:
    """A shell's background jobs, such as a test run, have their children ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def ended(process: subprocess.Popen):
    """Its exit status, standard output and standard error."""
    output, errors = process.communicate(timeout=300)
    return process.returncode, output, errors


def succeed(*command, cwd) -> str:
    """Run a command that must succeed; everything that it printed."""
    status, output, _ = ended(start(*command, cwd=cwd, merge=True))
    assert status == 0, output
    return output


@lru_cache(maxsize=None)
def _import_hosts() -> None:
    """Import what commands import, and find the hosts' configs, once before the forks rather than in each of them."""
    for host in ('mmdet', 'mmpretrain'):
        with contextlib.suppress(ImportError):
            for part in ('datasets', 'engine', 'evaluation', 'models', 'visualization'):
                importlib.import_module(f'{host}.{part}')
            Config._get_cfg_path(f'{host}::_base_/default_runtime.py', '')  # cached by conftest.py


def import_commands(*hosts) -> None:
    """Import what all commands need as well, for a campaign whose runs are forks of this process."""
    for module in (*(f'{host}.apis' for host in hosts), 'mmrev.diagnosis.plan', 'mmrev.models'):
        importlib.import_module(module)


def printed(*arguments, cwd, processes=1) -> str:
    """The standard output of `forked`, which must succeed."""
    with tempfile.TemporaryFile('w+') as output:
        status, errors = forked(*arguments, cwd=cwd, processes=processes, output=output)
        output.seek(0)
        text = output.read()
    assert status == 0, text + errors
    return text


def forked(*arguments, cwd, processes=1, output=None):
    """`mmrev` in a fork of this process, which has imported everything: exit status and standard error.

    A run within this process would find the visualizers and loggers that mmengine keeps of another one.

    Args:
        arguments: Of the command.
        cwd: Where it runs.
        processes: How many run it, as a launcher starts them for ``--launcher pytorch``. The status is that of the
            first that failed, in the order of their ranks.
        output: A file for the standard output.
    """
    _import_hosts()
    with tempfile.TemporaryFile('w+') as errors, tempfile.TemporaryFile('w+') as unread, socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        environment = dict(WORLD_SIZE=str(processes), MASTER_ADDR='127.0.0.1', MASTER_PORT=str(free.getsockname()[1]))
        free.close()
        children = [_fork(arguments, cwd, output or unread, errors, dict(environment, RANK=rank, LOCAL_RANK=rank))
                    for rank in map(str, range(processes))]
        statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        errors.seek(0)
        return next(filter(None, statuses), 0), errors.read()


def _fork(arguments, cwd, output, errors, environment) -> int:
    """Start `mmrev` in a fork of this process; its id."""
    child = os.fork()
    if child == 0:
        status = 99
        signal.alarm(200)  # a command that hangs ends by SIGALRM
        gc.freeze()  # to collect a process group of the parent would be to wait for its threads, which are not here
        try:
            os.chdir(cwd)
            os.environ.update(environment)
            os.dup2(output.fileno(), 1)
            os.dup2(errors.fileno(), 2)
            sys.stdout, sys.stderr = os.fdopen(1, 'w'), os.fdopen(2, 'w')
            _forget_instances(ManagerMixin)
            status = _run([str(argument) for argument in arguments])
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return child


def _forget_instances(kind) -> None:
    """Forget the visualizers, loggers and scopes of earlier tests, which mmengine keeps by name."""
    for subclass in kind.__subclasses__():
        subclass._instance_dict.clear()
        _forget_instances(subclass)


def _run(words):
    """Run a command in this process: ``mmrev ...``, its arguments alone, or ``python SCRIPT ...``."""
    if words[0] != 'python':
        return main(words[words[0] == 'mmrev':])
    sys.argv = words[1:]
    sys.path.insert(0, os.path.dirname(os.path.abspath(words[1])))
    try:
        runpy.run_path(words[1], run_name='__main__')
    except SystemExit as stop:
        return stop.code or 0
    return 0


def mmrev(*arguments) -> tuple:
    """The command line of ``mmrev`` in this environment."""
    return (sys.executable, '-m', 'mmrev.cli', *arguments)


def option(value):
    """The arguments of a training with one option of the config."""
    return ['train', 'good.py', '--cfg-options', value]


def said(errors):
    """The two lines of a message."""
    start, *message = errors.partition(': error: ')  # before it at most warnings of the hosts while they are imported
    lines = ''.join(message).strip().splitlines()
    assert len(lines) == 2 and 'Traceback' not in start and 'error' not in start.lower(), errors
    return lines
