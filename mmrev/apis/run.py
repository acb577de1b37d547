"""A run of a command: read and override the config, build the runner, explain exceptions in terms of the run."""
import contextlib
import importlib.util
import inspect
import os.path as osp
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterator, Optional, Sequence

from mmrev.problems import ProblemError, closest, phase

from .distributed import prepare_cpu_processes
from .modes import pin_memory

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.hooks import Hook
    from mmengine.runner import Runner

# Keys that mmengine, mmdet and mmpretrain read from a config in addition to the arguments of the runner.
_READ_BESIDES = ('activation_checkpointing', 'compile', 'custom_imports', 'efficient_conv_bn_eval',
                 'find_unused_parameters', 'model_wrapper_cfg', 'runner_type', 'strategy', 'sync_bn',
                 'tta_model', 'tta_pipeline', 'pretrained')  # for which `diagnosis.config.sections` names a replacement

# How mmengine names mmseg where it is missing.
_SEGMENTATION = ('mmsegmentation is not installed', "No module named 'mmseg'")


def load_config(file: str, options: Optional[Dict[str, Any]] = None) -> 'Config':
    """Read a config and override entries.

    Args:
        file: Path of the config, or ``SCOPE::FOLDER/NAME.py`` for mmengine to look up.
        options: Entries as in ``--cfg-options`` of OpenMMLab's tools: ``{'a.b.0.c': value}``.

    Raises:
        ProblemError: If there is no such config, if it cannot be read, or if an option would change nothing.
    """
    _check_file(file)
    warnings.filterwarnings('ignore', message='pkg_resources is deprecated')  # mmengine needs it
    with phase('mmengine cannot be imported', '`mmrev doctor` says what is installed and how to fix it'):
        from mmengine.config import Config
        from mmengine.hub import get_config
    with phase(f'config `{file}` cannot be read', 'Fix the config or its `_base_`; --traceback shows where'):
        try:
            cfg = get_config(file) if '::' in file else Config.fromfile(file)
        except ModuleNotFoundError as error:
            if str(error).startswith(_SEGMENTATION):
                raise _without_mmseg(file) from error
            raise
    if cfg.get('default_scope') == 'mmseg' and importlib.util.find_spec('mmseg') is None:
        raise _without_mmseg(file)
    merge_options(cfg, options or {}, file)
    return cfg


def _without_mmseg(file: str) -> ProblemError:
    return ProblemError(f'config `{file}` is for mmsegmentation, which is not installed',
                        "pip install 'mmrev[segmentation]' (with OneDL's packages: onedl-mmsegmentation)")


def _check_file(config: str) -> None:
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
    """Merge ``--cfg-options`` into the config, and import the modules of ``custom_imports`` among them.

    Raises:
        ProblemError: If an option cannot be merged, or if nothing would read it (a misspelt name, a helper variable).
    """
    from mmengine.runner import Runner
    from mmengine.utils import import_modules_from_strings
    known = {*inspect.signature(Runner).parameters, *_READ_BESIDES}
    for key in options if 'runner_type' not in cfg else ():  # a custom runner may read anything
        name = key.split('.')[0]
        if name not in known:
            raise ProblemError(f'--cfg-options {key}: what {file} has made of `{name}` stays as it is' if name in cfg
                               else f'--cfg-options {key}: there is no `{name}` in {file}', closest(name, known) +
                               'Write the whole path, as in optim_wrapper.optimizer.lr=0.01')
    with phase(f'--cfg-options {" ".join(options)}', f'See what is in {file}'):
        cfg.merge_from_dict(options)
    if any(key.split('.')[0] == 'custom_imports' for key in options):
        with phase('--cfg-options custom_imports', 'Name modules that Python can import, e.g. with PYTHONPATH=.'):
            import_modules_from_strings(**cfg.custom_imports)


def build_runner(cfg: 'Config', hooks: Sequence['Hook'] = ()) -> 'Runner':
    """Build the runner of a config, with additional `hooks`.

    Raises:
        ProblemError: If it cannot be built.
    """
    from mmengine.registry import RUNNERS
    from mmengine.runner import Runner

    from mmrev.hooks import FiniteLossHook, PhaseHook, SafeCheckpointHook
    with phase('building the runner', f'Fix it in {cfg.filename}, or override it with --cfg-options KEY=VALUE'):
        prepare_cpu_processes(cfg)
        pin_memory(cfg)
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
        PhaseHook.name_preparation(runner)
        own = [] if any(isinstance(hook, FiniteLossHook) for hook in runner.hooks) else [FiniteLossHook()]
        for hook in (PhaseHook(), SafeCheckpointHook(), *own, *hooks):
            runner.register_hook(hook)
    return runner


@contextlib.contextmanager
def running(runner: 'Runner', *parts: str) -> Iterator[None]:
    """Build parts of a runner, then run the block. The traceback of an exception goes to the log.

    Args:
        runner: The runner.
        parts: Loops to build first: ``'train'``, ``'val'`` or ``'test'``.

    Raises:
        ProblemError: If an exception ends the block.
    """
    try:
        for part in parts:
            with phase(f'building {part}_dataloader, {part}_cfg' + f' and {part}_evaluator' * (part != 'train')):
                getattr(runner, f'{part}_loop')  # reading the attribute builds the loop and its data set
        with phase('running', status=1):
            yield
    except ProblemError as error:
        log = runner.logger.log_file
        with open(log, 'a') as file:
            traceback.print_exc(file=file)
        raise ProblemError(error.what, f'{error.fix}{". " * bool(error.fix)}The traceback is in {osp.relpath(log)}',
                           error.status) from error
