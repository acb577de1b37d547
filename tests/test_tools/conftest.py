"""One trained run that the tests of the tools share."""
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
import toy_detection

from mmrev.cli import main

ROOT = Path(__file__).parents[2]


class Toy(NamedTuple):
    """A folder with a data set, its config, and what a first run of two epochs left in ``run/``."""

    folder: Path
    config: Path
    run: Path
    output: str


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


def forked(*arguments, cwd):
    """`mmrev` in a fork of this process, which has imported everything: exit status and standard error.

    A run within this process would find the visualizers and loggers that mmengine keeps of another one.
    """
    with tempfile.TemporaryFile('w+') as errors, tempfile.TemporaryFile('w+') as output:
        child = os.fork()
        if child == 0:
            status = 99
            try:
                os.chdir(cwd)
                os.dup2(output.fileno(), 1)
                os.dup2(errors.fileno(), 2)
                sys.stdout, sys.stderr = os.fdopen(1, 'w'), os.fdopen(2, 'w')
                status = main([str(argument) for argument in arguments])
                sys.stderr.flush()
            finally:
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        errors.seek(0)
        return status, errors.read()


def mmrev(*arguments) -> tuple:
    """The command line of ``mmrev`` in this environment."""
    return (sys.executable, '-m', 'mmrev.cli', *arguments)


@pytest.fixture(scope='session')
def toy(tmp_path_factory) -> Toy:
    """Train the toy detector for two epochs, TensorBoard switched on in the config."""
    folder = tmp_path_factory.mktemp('toy')
    toy_detection.write_dataset(folder / 'data')
    config = folder / 'toy.py'
    config.write_text(toy_detection.config_text(folder / 'data', train_cfg=dict(max_epochs=2), visualizer=dict(
        vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')])))
    output = succeed(*mmrev('train', config, '--work-dir', 'run'), cwd=folder)
    return Toy(folder, config, folder / 'run', output)
