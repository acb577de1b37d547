"""What the commands share: arguments, the config, the run, and how a command ends."""
import argparse
import contextlib
import inspect
import json
import os
import os.path as osp
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, NoReturn, Sequence

from mmrev.problems import ProblemError, closest, phase

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.hooks import Hook
    from mmengine.runner import Runner

EXIT_INTERRUPTED = 130
# What mmengine, mmdet and mmpretrain read from a config besides the arguments of the runner.
_READ_BESIDES = ('activation_checkpointing', 'compile', 'custom_imports', 'efficient_conv_bn_eval',
                 'find_unused_parameters', 'model_wrapper_cfg', 'runner_type', 'sync_bn', 'tta_model', 'tta_pipeline')
_DOCTOR = '`mmrev doctor` says what is installed and how to fix it'


def run_command(prog: str, body: Callable[[], None], with_traceback: bool = False) -> int:
    """Run a command's body; whatever exception ends it is told in two lines.

    Args:
        prog: The command as typed, for the message.
        body: Does the work.
        with_traceback: Show the traceback as well.

    Returns:
        0, the status of a `ProblemError`, or `EXIT_INTERRUPTED`.
    """
    try:
        with phase('unexpected error', 'Run again with --traceback, and report it', status=1):
            body()
    except KeyboardInterrupt as stop:
        if os.environ.get('LOCAL_RANK', '0') == '0':
            print(f'\n{prog}: interrupted. {stop}'.rstrip(), file=sys.stderr, flush=True)
        return EXIT_INTERRUPTED
    except ProblemError as error:
        if with_traceback:
            traceback.print_exc()
        _say(f'{prog}: error: {error}')
        return error.status
    return 0


def _say(text: str) -> None:
    """Print an error; under `mmrev.cli.launch`, which says it once for all processes, hand it over."""
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
    """Read ``--cfg-options`` as mmengine does; name what is wrong with them."""

    def __call__(self, parser, namespace, values, option_string=None):
        from mmengine.config import DictAction
        for option in values:
            key, equals, _ = option.partition('=')
            if not equals or not all(key.split('.')):
                raise ProblemError(f'--cfg-options `{option}` is not of the form KEY=VALUE, KEY being a.b.c',
                                   'Write e.g. --cfg-options train_dataloader.batch_size=4; quote lists: "key=[1,2]"')
        with phase(f'--cfg-options {" ".join(values)}', 'Quote lists, without blanks: "key=[1,2]"'):
            DictAction(self.option_strings, self.dest)(parser, namespace, values, option_string)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the config and what changes it."""
    parser.add_argument('config', help='config file, or mmrev::FOLDER/NAME.py')
    parser.add_argument('--cfg-options', nargs='+', action=OptionsAction, metavar='KEY=VALUE',
                        help='override the config: key=value, nested as a.b.c=value, list entries by index '
                        '(a.0.b=value), lists as key="[a,b]" or key=a,b without blanks')
    parser.add_argument('--traceback', action='store_true', help='show where a problem was noticed')
    parser.set_defaults(launcher='none', work_dir=None)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a command that runs."""
    add_config_arguments(parser)
    parser.add_argument('--work-dir', help='folder for checkpoints and logs; default work_dirs/CONFIG')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none',
                        help='what started the processes; with or without GPUs')
    parser.add_argument('--local_rank', '--local-rank', type=int, help='set by some launchers')


def join_launcher(args: argparse.Namespace) -> None:
    """Take this process's rank from the launcher, and let only the first process print (errors reach stderr still)."""
    if args.local_rank is not None:
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    with phase('mmengine cannot be imported', _DOCTOR):
        from mmrev.apis.distributed import adopt_launcher
    with phase(f'--launcher {args.launcher}', 'Use tools/dist_train.sh, tools/dist_test.sh, torchrun, srun or mpirun'):
        rank = adopt_launcher(args.launcher)
    if rank > 0:
        sys.stdout.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the descriptor: C++ libraries print as well
        warnings.simplefilter('ignore')


def load_config(args: argparse.Namespace) -> 'Config':
    """Read the config and merge the command line into it."""
    _check_config_file(args.config)
    warnings.filterwarnings('ignore', message='pkg_resources is deprecated')  # mmengine needs it
    with phase('mmengine cannot be imported', _DOCTOR):
        from mmengine.config import Config
        from mmengine.hub import get_config
    with phase(f'config `{args.config}` cannot be read', 'Fix that in the config or its `_base_`; --traceback shows '
               'the way there'):
        cfg = get_config(args.config) if '::' in args.config else Config.fromfile(args.config)
    merge_options(cfg, args.cfg_options or {}, args.config)
    cfg.launcher = args.launcher
    if '' in (args.work_dir, cfg.get('work_dir')):
        raise ProblemError('the work dir is empty', 'Name a folder with --work-dir, or leave it out for '
                           'work_dirs/CONFIG')
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or osp.join('work_dirs', Path(args.config).stem)
    return cfg


def _check_config_file(config: str) -> None:
    """Check that it is there; a name with ``::`` is mmengine's to look up."""
    if '::' in config or osp.isfile(config):
        return
    is_folder = osp.isdir(config)
    names = sorted(path.name for path in (Path(config) if is_folder else Path(config).parent).glob('*.py'))
    if is_folder:
        raise ProblemError(f'config `{config}` is a folder', f'Name a config in it: {", ".join(names[:5])}' +
                           ', ...' * (len(names) > 5) if names else 'There is no config in it')
    raise ProblemError(f'config `{config}` does not exist', closest(osp.basename(config), names) or
                       'Give the path of a config file, relative to this folder, or mmrev::FOLDER/NAME.py')


def merge_options(cfg: 'Config', options: Dict[str, Any], file: str) -> None:
    """Merge ``--cfg-options`` into the config, and do what a config file would have done with them.

    Raises:
        ProblemError: If one cannot be merged, or nothing would read it: a misspelt name, or a variable of the file.
    """
    from mmengine.runner import Runner
    from mmengine.utils import import_modules_from_strings
    known = {*inspect.signature(Runner).parameters, *_READ_BESIDES}
    for key in options if 'runner_type' not in cfg else ():  # a runner of the user's own may read anything
        name = key.split('.')[0]
        if name not in known:
            raise ProblemError(f'--cfg-options {key}: what {file} has made of `{name}` stays as it is' if name in cfg
                               else f'--cfg-options {key}: there is no `{name}` in {file}', closest(name, known) +
                               'Write the whole path of what you mean, as optim_wrapper.optimizer.lr=0.01')
    with phase(f'--cfg-options {" ".join(options)}', f'See what is in {file}'):
        cfg.merge_from_dict(options)
    if any(key.split('.')[0] == 'custom_imports' for key in options):
        with phase('--cfg-options custom_imports', 'Give modules that Python finds; in this folder with PYTHONPATH=.'):
            import_modules_from_strings(**cfg.custom_imports)


def build_runner(cfg: 'Config', hooks: Sequence['Hook']) -> 'Runner':
    """Build the runner that the config asks for, with `hooks` besides its own."""
    from mmengine.registry import RUNNERS
    from mmengine.runner import Runner

    from mmrev.apis import prepare_cpu_processes
    from mmrev.hooks import PhaseHook
    fix = f'Fix it in {cfg.filename}, or override it with --cfg-options'
    with phase('building the runner', f'{fix} KEY=VALUE'):
        prepare_cpu_processes(cfg)
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
        for hook in (PhaseHook(), *hooks):
            runner.register_hook(hook)
    return runner


@contextlib.contextmanager
def running(runner: 'Runner') -> Iterator[None]:
    """Run what the runner does; the traceback of an exception that ends it goes to the log."""
    try:
        with phase('running', status=1):
            yield
    except ProblemError as error:
        log = runner.logger.log_file
        with open(log, 'a') as file:
            traceback.print_exc(file=file)
        raise ProblemError(error.what, f'{error.fix}{". " * bool(error.fix)}The traceback is in {osp.relpath(log)}',
                           error.status) from error
