"""``python -m mmrev.cli.launch``: torchrun that reports only the process that failed first, in two lines."""
import logging
import os
import signal
import sys
from typing import Any, Dict, Tuple

from mmrev.problems import LOST


def main() -> int:
    """Start processes with the arguments of torchrun; return the exit status of the first one that failed."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun
    logging.disable(logging.ERROR)
    os.environ['MMREV_LAUNCH'] = '1'  # the processes leave the report to this one
    try:
        torchrun()
    except ChildFailedError as error:
        rank, failure = first_failure(error.failures)
        told = failure.message['message'] if isinstance(failure.message, dict) else None
        print(told or f'mmrev: error: process {rank}: {failure.message}\n  It printed no error; memory may '
              'have run out: see dmesg', file=sys.stderr)
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    except SignalException as stop:
        return 128 + stop.sigval  # as in a shell: 130 after Ctrl-C
    return 0


def first_failure(failures: Dict[int, Any]) -> Tuple[int, Any]:
    """Return rank and report of the process that failed first, ignoring those that ended because of it.

    Timestamps are whole seconds, so they do not suffice.
    """
    return min(failures.items(), key=lambda item: (item[1].exitcode == -signal.SIGTERM or LOST in str(item[1].message),
                                                   item[1].timestamp))


if __name__ == '__main__':
    sys.exit(main())
