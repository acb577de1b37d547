"""``python -m mmrev.cli.launch``: torchrun, without its report where our own message has said it already."""
import logging
import sys

from mmrev.cli.errors import EXIT_INTERRUPTED, EXIT_USER_ERROR


def main() -> int:
    """Start the processes that the arguments (torchrun's) ask for; the exit status is that of the first that failed."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun
    logging.disable(logging.ERROR)  # of this process, which does nothing but start the others
    try:
        torchrun()
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        if failure.exitcode in (EXIT_USER_ERROR, EXIT_INTERRUPTED):
            return failure.exitcode
        raise
    except SignalException as stop:
        return 128 + stop.sigval  # as a shell counts: 130 after Ctrl-C
    return 0


if __name__ == '__main__':
    sys.exit(main())
