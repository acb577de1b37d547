"""Several processes: whose status and words are those of the run."""
import os
import signal
import time

import pytest

from mmrev.cli.launch import first_failure
from mmrev.problems import LOST
from support import toy_classification
from support.commands import ROOT, ended, forked, start


class Failure:
    """What torch's ``ChildFailedError`` says of a process."""

    def __init__(self, exitcode, timestamp, message=''):
        self.exitcode, self.timestamp, self.message = exitcode, timestamp, message


def test_a_process_that_was_stopped_because_another_failed_is_not_the_first():
    failures = {0: Failure(-signal.SIGTERM, 10), 1: Failure(2, 10), 2: Failure(1, 11)}
    assert first_failure(failures) == (1, failures[1])


def test_a_process_that_lost_another_is_not_the_first():
    failures = {0: Failure(1, 10, dict(message=LOST)), 1: Failure(-signal.SIGKILL, 11)}
    assert first_failure(failures) == (1, failures[1])


HOOK = """
import os
import signal
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module(force=True)
class Dying(Hook):
    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter == 2 and os.environ['RANK'] == '1':
            if os.environ['HOW'] == 'killed':
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError('its memory is full')
"""


@pytest.fixture
def dying(tmp_path, monkeypatch):
    """A folder with a config whose second process dies after three iterations."""
    toy_classification.write_dataset(tmp_path / 'data')
    (tmp_path / 'dying_hook.py').write_text(HOOK)
    (tmp_path / 'config.py').write_text(toy_classification.config_text(tmp_path / 'data', 4, custom_imports=dict(
        imports=['mmrev', 'dying_hook']), custom_hooks=[dict(type='Dying')]))
    monkeypatch.setenv('PYTHONPATH', f'{tmp_path}:{os.environ.get("PYTHONPATH", "")}')
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.subprocess
@pytest.mark.parametrize('tool, arguments', [('dist_train', ['a.py']), ('dist_train', ['a.py', 'zero']),
                                             ('dist_train', ['a.py', 0]), ('dist_test', ['a.py', 'a.pth'])])
def test_the_scripts_print_their_usage(tool, arguments, tmp_path):
    status, _, errors = ended(start(ROOT / f'tools/{tool}.sh', *arguments, cwd=tmp_path))
    assert status and len(errors.splitlines()) == 1 and f'usage: tools/{tool}.sh CONFIG' in errors


@pytest.mark.subprocess
def test_the_last_lines_of_a_launcher_name_the_process_that_was_killed(dying, monkeypatch):
    monkeypatch.setenv('HOW', 'killed')
    began = time.monotonic()
    status, output, errors = ended(start(ROOT / 'tools/dist_train.sh', 'config.py', 2, cwd=dying))
    assert status == 128 + signal.SIGKILL and time.monotonic() - began < 100
    assert errors.strip().splitlines()[-2].startswith('mmrev: error: process 1: Signal 9 (SIGKILL)'), errors
    assert 'Traceback' not in errors


def test_processes_without_a_launcher_name_themselves_and_the_cause(dying, monkeypatch):
    monkeypatch.setenv('HOW', 'raises')
    status, errors = forked('train', 'config.py', '--launcher', 'pytorch', cwd=dying, processes=2)
    assert status == 1 and 'Traceback' not in errors
    assert 'mmrev train: error: process 1: iteration 3: its memory is full' in errors
    assert f'mmrev train: error: process 0: {LOST}, which says why: iteration 4: ' in errors
