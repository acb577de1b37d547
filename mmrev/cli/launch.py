"""``python -m mmrev.cli.launch``: torchrun, with two lines about the process that failed first for its report."""
import logging
import os
import sys


def main() -> int:
    """Start the processes that the arguments (torchrun's) ask for; return the exit status of the first that failed."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun
    logging.disable(logging.ERROR)
    os.environ['MMREV_LAUNCH'] = '1'  # processes leave it to this one to say why they failed
    try:
        torchrun()
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        told = failure.message['message'] if isinstance(failure.message, dict) else None
        print(told or f'mmrev: error: process {rank}: {failure.message}', file=sys.stderr)
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    except SignalException as stop:
        return 128 + stop.sigval  # as a shell counts: 130 after Ctrl-C
    return 0


if __name__ == '__main__':
    sys.exit(main())
