"""What ``mmrev train`` and ``mmrev test`` share: arguments, the config, several processes, the run itself."""
import argparse
import inspect
import os
import os.path as osp
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, NoReturn, Sequence

from mmrev.cli.errors import users_input, walk
from mmrev.problems import ProblemError, closest

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.hooks import Hook
    from mmengine.runner import Runner

# What mmengine, mmdet and mmpretrain read from a config besides the arguments of the runner.
_READ_BESIDES = ('activation_checkpointing', 'compile', 'custom_imports', 'efficient_conv_bn_eval',
                 'find_unused_parameters', 'model_wrapper_cfg', 'runner_type', 'sync_bn', 'tta_model', 'tta_pipeline')
_TOO_COMMON = (None, 0, 1, '', [], {})  # values (also True and False) that do not tell where a variable was used
OPTIONS_HELP = ('override the config: key=value, nested as a.b.c=value, list entries by index (a.0.b=value), lists as '
                'key="[a,b]" or key=a,b without blanks')


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
        rank = _adopt_launcher(args.launcher)
    if rank > 0:
        sys.stdout.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the descriptor: C++ libraries print as well
        warnings.simplefilter('ignore')


def _adopt_launcher(launcher: str) -> int:
    try:
        from mmrev.apis.distributed import adopt_launcher
    except ImportError as error:
        raise ProblemError(f'mmengine cannot be imported: {error}', '`mmrev doctor` says how to mend it') from error
    return adopt_launcher(launcher)


def load_config(args: argparse.Namespace) -> 'Config':
    """Read the config and merge the common arguments into it."""
    _check_config_file(args.config)
    warnings.filterwarnings('ignore', message='pkg_resources is deprecated')  # mmengine needs it, and says so each time
    try:
        from mmengine.config import Config
    except ImportError as error:
        raise ProblemError(f'mmengine cannot be imported: {error}', '`mmrev doctor` says how to mend it') from error
    with users_input(f'config `{args.config}` cannot be read', 'Mend that in the config or its `_base_`; --traceback '
                     'shows the way there'):
        if '::' in args.config:
            from mmengine.hub import get_config
            cfg = get_config(args.config)
        else:
            cfg = Config.fromfile(args.config)
    merge_options(cfg, args.cfg_options or {}, args.config)
    cfg.launcher = args.launcher
    if '' in (args.work_dir, cfg.get('work_dir')):
        raise ProblemError('the work dir is empty', 'Name a folder with --work-dir, or leave it out for work_dirs/CONFIG')
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or osp.join('work_dirs', Path(args.config).stem)
    from mmrev.cli.preflight import check_sections
    check_sections(cfg)
    if osp.exists(cfg.work_dir) and not osp.isdir(cfg.work_dir):
        raise ProblemError(f'work dir `{cfg.work_dir}` is a file', 'Name a folder with --work-dir')
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
        ProblemError: If one cannot be merged, or would change nothing.
    """
    for key in options:
        _check_takes_effect(cfg, key, file)
    with users_input(f'--cfg-options {" ".join(options)}', f'See what is in {file}'):
        cfg.merge_from_dict(options)
    if any(key.split('.')[0] == 'custom_imports' for key in options):
        from mmengine.utils import import_modules_from_strings
        with users_input('--cfg-options custom_imports', 'Give modules that python finds; in this folder with '
                         'PYTHONPATH=.'):
            import_modules_from_strings(**cfg.custom_imports)


def _check_takes_effect(cfg: 'Config', key: str, file: str) -> None:
    """Check that the runner reads what an option sets; a misspelt name, or a variable of the file, would do nothing."""
    from mmengine.runner import Runner
    known = {*inspect.signature(Runner).parameters, *_READ_BESIDES}
    name = key.split('.')[0]
    if name in known or 'runner_type' in cfg:  # a runner of the user's own may read anything
        return
    if name not in cfg:
        raise ProblemError(f'--cfg-options {key}: there is no `{name}` in {file}', closest(name, {*known, *cfg}) or
                        'Write the whole path of what you mean, as optim_wrapper.optimizer.lr=0.01')
    if cfg[name] not in _TOO_COMMON:
        places = [place for place, node in walk(cfg._cfg_dict, '') if node == cfg[name]]
        made = [place for place in places if place.split('.')[0] in known]
        if made:
            raise ProblemError(f'--cfg-options {key}: what {file} has made of `{name}` stays as it is',
                            f'Set what is meant by it: {" ".join(f"{place}=..." for place in made[:3])}')


def build_runner(cfg: 'Config', hooks: Sequence['Hook']) -> 'Runner':
    """Build the runner that the config asks for, with `hooks` besides its own."""
    from mmengine.registry import RUNNERS
    from mmengine.runner import Runner
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    for hook in hooks:
        runner.register_hook(hook)
    return runner
