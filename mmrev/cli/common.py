"""What ``mmrev train`` and ``mmrev test`` share: arguments, the config, several processes, the run itself."""
import argparse
import os
import os.path as osp
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Sequence

from mmrev.apis.distributed import adopt_launcher
from mmrev.cli.errors import UserError, closest, users_input

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.hooks import Hook
    from mmengine.runner import Runner

OPTIONS_HELP = ('override the config: key=value, nested as a.b.c=value, list entries by index (a.0.b=value), lists as '
                'key="[a,b]" or key=a,b without blanks')


class Parser(argparse.ArgumentParser):
    """An argument parser that reports mistakes as `UserError`."""

    def error(self, message: str) -> NoReturn:
        raise UserError(message, f'See {self.prog} --help')


class OptionsAction(argparse.Action):
    """Read ``--cfg-options`` as mmengine does; name what is wrong with them."""

    def __call__(self, parser, namespace, values, option_string=None):
        from mmengine.config import DictAction
        for option in values:
            key, equals, _ = option.partition('=')
            if not equals or not all(key.split('.')):
                raise UserError(f'--cfg-options `{option}` is not of the form KEY=VALUE, KEY being a.b.c',
                                'Write e.g. --cfg-options train_dataloader.batch_size=4; quote lists: "key=[1,2]"')
        with users_input(f'--cfg-options {" ".join(values)}', 'Quote lists, without blanks: "key=[1,2]"'):
            DictAction(self.option_strings, self.dest)(parser, namespace, values, option_string)


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that both commands have."""
    parser.add_argument('--work-dir', help='folder for checkpoints and logs; default work_dirs/CONFIG')
    parser.add_argument('--cfg-options', nargs='+', action=OptionsAction, metavar='KEY=VALUE', help=OPTIONS_HELP)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none',
                        help='what started the processes; with or without GPUs')
    parser.add_argument('--local_rank', '--local-rank', type=int, help='set by some launchers')
    parser.add_argument('--traceback', action='store_true', help='show where a mistake in the input was noticed')


def join_launcher(args: argparse.Namespace) -> None:
    """Take this process's rank from the launcher, and let only the first process print (errors reach stderr still)."""
    if args.local_rank is not None:
        os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    with users_input(f'--launcher {args.launcher}', 'Use tools/dist_train.sh or tools/dist_test.sh, or torchrun, srun, '
                     'mpirun'):
        rank = adopt_launcher(args.launcher)
    if rank > 0:
        sys.stdout.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the descriptor: C++ libraries print as well
        warnings.simplefilter('ignore')


def load_config(args: argparse.Namespace) -> 'Config':
    """Read the config and merge the common arguments into it."""
    if not osp.isfile(args.config) and '::' not in args.config:
        folder = Path(args.config).parent
        raise UserError(f'config `{args.config}` does not exist',
                        closest(osp.basename(args.config), [path.name for path in folder.glob('*.py')])
                        or 'Give the path of a config file, relative to this folder, or mmrev::FOLDER/NAME.py')
    warnings.filterwarnings('ignore', message='pkg_resources is deprecated')  # mmengine needs it, and says so each time
    try:
        from mmengine.config import Config
    except ImportError as error:
        raise UserError(f'mmengine cannot be imported: {error}', '`mmrev doctor` says how to mend it') from error
    with users_input(f'config `{args.config}` cannot be read', 'Mend that in the config or its `_base_`; --traceback '
                     'shows the way there'):
        if '::' in args.config:
            from mmengine.hub import get_config
            cfg = get_config(args.config)
        else:
            cfg = Config.fromfile(args.config)
    options = args.cfg_options or {}
    with users_input(f'--cfg-options {" ".join(options)}', f'See what is in {args.config}'):
        cfg.merge_from_dict(options)
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or osp.join('work_dirs', Path(args.config).stem)
    if osp.exists(cfg.work_dir) and not osp.isdir(cfg.work_dir):
        raise UserError(f'work dir `{cfg.work_dir}` is a file', 'Name a folder with --work-dir')
    return cfg


def build_runner(cfg: 'Config', hooks: Sequence['Hook']) -> 'Runner':
    """Build the runner that the config asks for, with `hooks` besides its own."""
    from mmengine.registry import RUNNERS
    from mmengine.runner import Runner
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    for hook in hooks:
        runner.register_hook(hook)
    return runner
