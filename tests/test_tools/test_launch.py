"""Several processes: whose status and words are those of the run."""
import signal

from mmrev.cli.launch import first_failure


class Failure:
    """What torch's ``ChildFailedError`` says of a process."""

    def __init__(self, exitcode, timestamp):
        self.exitcode, self.timestamp = exitcode, timestamp


def test_a_process_that_was_stopped_because_another_failed_is_not_the_first():
    failures = {0: Failure(-signal.SIGTERM, 10), 1: Failure(2, 10), 2: Failure(1, 11)}
    assert first_failure(failures) == (1, failures[1])
