"""Code that the commands share: arguments, reading the config, reporting errors."""
import argparse
import errno
import gc
import json
import os
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Callable, NoReturn, Optional, Sequence

from mmrev.problems import ProblemError, Terminated, phase

if TYPE_CHECKING:
    from mmengine.config import Config


def run_command(parser: argparse.ArgumentParser, body: Callable[[argparse.Namespace], None],
                argv: Optional[Sequence[str]] = None) -> int:
    """Run a command; report an exception that ends it in two lines.

    Args:
        parser: Parser of the arguments, which gets ``--traceback``; messages begin with its ``prog``.
        body: The command itself.
        argv: Arguments; those of the process by default.

    Returns:
        0, the status of a `ProblemError`, 130 after Ctrl-C, or 143 after SIGTERM.
    """
    argv = sys.argv[1:] if argv is None else argv
    os.environ.setdefault('OPENCV_LOG_LEVEL', 'ERROR')  # its warnings about a damaged image do not name it
    for stream in (sys.stdout, sys.stderr):
        getattr(stream, 'reconfigure', lambda **_: None)(errors='backslashreplace')  # names of files may be any bytes
    parser.add_argument('--traceback', action='store_true', help='print the traceback of a problem')
    try:
        args = parser.parse_args(argv)
        for name, value in vars(args).items():
            if value == '' or isinstance(value, list) and '' in value:
                raise ProblemError(f'the argument `{name.replace("_", "-")}` is empty', 'Give a value, or leave it out')
        with phase('unexpected error', 'Run again with --traceback, and report it', status=1):
            try:
                body(args)
                _leave_process_group()
                print(end='', flush=True)  # nothing where standard output is closed
            except OSError as error:
                if error.filename is None and error.errno in (errno.ENOSPC, errno.EPIPE):
                    _discard_output()  # Python flushes again when it exits
                    raise ProblemError(f'writing the output: {error.strerror}', status=1) from error
                raise
    except KeyboardInterrupt as stop:
        if os.environ.get('LOCAL_RANK', '0') == '0':
            how = 'terminated' if isinstance(stop, Terminated) else 'interrupted'
            print(f'\n{parser.prog}: {how}. {stop}'.rstrip(), file=sys.stderr, flush=True)
        return 143 if isinstance(stop, Terminated) else 130
    except ProblemError as error:
        if '--traceback' in argv:
            traceback.print_exc()
        alone = os.environ.get('WORLD_SIZE', '1') == '1'
        _say(f'{parser.prog}: error: {"" if alone else "process %s: " % os.environ.get("RANK", "?")}{error}')
        return error.status
    return 0


def _leave_process_group() -> None:
    """Destroy the process group: a process that exits with one may abort, because its threads still run."""
    distributed = sys.modules.get('torch.distributed')
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        gc.collect()  # sharded weights refer to the group, in reference cycles
        distributed.destroy_process_group()


def _say(text: str) -> None:
    """Print an error, or pass it to `mmrev.cli.launch`, which prints one for all processes."""
    file = os.environ.get('TORCHELASTIC_ERROR_FILE')
    if file and 'MMREV_LAUNCH' in os.environ:
        message = dict(message=text, extraInfo=dict(timestamp=str(int(time.time())), py_callstack=''))
        Path(file).write_text(json.dumps(dict(message=message)))
    else:
        print(text, file=sys.stderr, flush=True)


class Parser(argparse.ArgumentParser):
    """An argument parser that reports mistakes as `ProblemError`."""

    def error(self, message: str) -> NoReturn:
        raise ProblemError(message, f'See {self.prog} --help')


class OptionsAction(argparse.Action):
    """Parse ``--cfg-options`` as mmengine does, with better error messages."""

    def __call__(self, parser, namespace, values, option_string=None):
        from mmengine.config import DictAction
        with phase(f'--cfg-options {" ".join(values)}', 'Write KEY=VALUE, as train_dataloader.batch_size=4; quote '
                   'lists, without spaces: "key=[1,2]"'):
            DictAction(self.option_strings, self.dest)(parser, namespace, values, option_string)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the config and the options that change it."""
    parser.add_argument('config', help='config file, or mmrev::FOLDER/NAME.py')
    parser.add_argument('--cfg-options', nargs='+', action=OptionsAction, metavar='KEY=VALUE',
                        help='override entries of the config: a.b.0.c=value, or key="[1,2]" without spaces')
    parser.set_defaults(launcher='none', work_dir=None, skip_wrong_annotations=False)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that run the config."""
    add_config_arguments(parser)
    parser.add_argument('--skip-wrong-annotations', action='store_true', help='ignore invalid COCO annotations')
    parser.add_argument('--work-dir', help='folder for checkpoints and logs; default work_dirs/CONFIG')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none',
                        help='what started the processes; with or without GPUs')
    parser.add_argument('--local_rank', '--local-rank', type=int, help='set by some launchers')


def join_launcher(args: argparse.Namespace) -> None:
    """Read the rank of this process from the launcher. Only rank 0 prints; errors of all ranks go to stderr."""
    if args.local_rank is not None:
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    with phase('mmengine cannot be imported', '`mmrev doctor` shows what is installed and how to fix it'):
        from mmrev.apis.distributed import adopt_launcher
    with phase(f'--launcher {args.launcher}', 'Use tools/dist_train.sh, tools/dist_test.sh, torchrun, srun or mpirun'):
        rank = adopt_launcher(args.launcher)
    if rank > 0:
        print(end='', flush=True)
        _discard_output()
        warnings.simplefilter('ignore')


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the descriptor, because C++ libraries print as well


def load_config(args: argparse.Namespace) -> 'Config':
    """Read the config and merge the command line into it."""
    from mmrev.apis import run
    from mmrev.apis.work_dir import choose_work_dir
    cfg = run.load_config(args.config, args.cfg_options)
    if args.skip_wrong_annotations:
        from mmrev.datasets.coco import skip_wrong_annotations
        skip_wrong_annotations()
    cfg.launcher = args.launcher
    choose_work_dir(cfg, args.config, args.work_dir)
    return cfg
