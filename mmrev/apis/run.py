"""A run of a command: read and override the config, build the runner, explain exceptions in terms of the run."""
import contextlib
import functools
import importlib.util
import os
import os.path as osp
import re
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, Optional, Sequence

from mmrev.problems import LOST, ProblemError, chained, closest, one_line, phase

from .config_file import parsed, unread
from .distributed import prepare_cpu_processes
from .modes import pin_memory, require_priorities, require_workers

if TYPE_CHECKING:
    from mmengine.config import Config
    from mmengine.hooks import Hook
    from mmengine.runner import Runner
    from torch.nn import Module

    from mmrev.hooks import ExactResumeHook

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
    if os.environ.get('MPLBACKEND', '').startswith('module://'):  # of the notebook that runs this command
        del os.environ['MPLBACKEND']
    warnings.filterwarnings('ignore', message='pkg_resources is deprecated')  # mmengine needs it
    with phase('mmengine cannot be imported', '`mmrev doctor` says what is installed and how to fix it'):
        from mmengine.config import Config
        from mmengine.hub import get_config
    with phase(f'config `{file}` cannot be read', 'Fix the config or its `_base_`; --traceback shows where'):
        texts = parsed(file) if '::' not in file else ()
        try:
            cfg = get_config(file) if '::' in file else Config.fromfile(file)
        except ModuleNotFoundError as error:
            if str(error).startswith(_SEGMENTATION):
                raise _without_mmseg(file) from error
            raise
        except ImportError as error:  # of mmengine, which lists all of sys.path
            if error.__cause__ is None or 'custom modules' not in str(error):
                raise
            raise ProblemError(f'custom_imports of {file}: {one_line(chained(error)[0])}', 'Fix it, or set PYTHONPATH '
                               'to the folder that has the module, as in PYTHONPATH=. mmrev train ...') from error
        except (Exception, SystemExit, GeneratorExit) as error:
            frames = traceback.extract_tb(error.__traceback__)
            if any(Path(frame.filename).name == 'lazy.py' for frame in frames):
                raise ProblemError(f'config `{file}` cannot be read: {one_line(error)}', 'A config that imports a '
                                   'library can name its classes and functions, not call them') from error
            lines = [frame for frame in frames if frame.filename in texts]
            if not lines:
                raise
            place = f'`{osp.relpath(lines[-1].filename)}`, line {lines[-1].lineno}'
            raise ProblemError(f'{place}: {one_line(error)}', f'Fix it: `{lines[-1].line}`') from error
    if cfg.get('default_scope') == 'mmseg' and importlib.util.find_spec('mmseg') is None:
        raise _without_mmseg(file)
    merge_options(cfg, options or {}, file)
    if cfg.get('strategy') is not None and cfg.get('runner_type') in (None, 'Runner'):
        raise ProblemError('`strategy` is read only by a FlexibleRunner', f'Leave it out, or add runner_type='
                           f"'FlexibleRunner' in {file} or with --cfg-options")
    return cfg


def _without_mmseg(file: str) -> ProblemError:
    return ProblemError(f'config `{file}` is for mmsegmentation, which is not installed',
                        "pip install 'mmrev[segmentation]' (with OneDL's packages: onedl-mmsegmentation)")


def _check_file(config: str) -> None:
    if osp.isfile(config) and config.endswith(('.pth', '.pt', '.ckpt')):
        raise ProblemError(f'`{config}` is a checkpoint, where a config is expected', 'Give the config before it')
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
    from mmengine.utils import import_modules_from_strings

    from .entries import known_keys
    known = known_keys()
    for key in options if 'runner_type' not in cfg else ():  # a custom runner may read anything
        name = key.split('.')[0]
        if name not in known:
            raise ProblemError(f'--cfg-options {key}: {file} has already used the variable `{name}`' if name in cfg
                               else f'--cfg-options {key}: there is no `{name}` in {file}', closest(name, known) +
                               'Write the whole path, as in optim_wrapper.optimizer.lr=0.01')
    with phase(f'--cfg-options {" ".join(options)}', f'See what is in {file}'):
        cfg.merge_from_dict(options)
    if any(key.split('.')[0] == 'custom_imports' for key in options):
        with phase('--cfg-options custom_imports', 'Name modules that Python can import, e.g. with PYTHONPATH=.'):
            import_modules_from_strings(**cfg.custom_imports)


def build_runner(cfg: 'Config', hooks: Sequence['Hook'] = (), outdated: Sequence[Path] = ()) -> 'Runner':
    """Build the runner of a config, with additional `hooks`; it deletes `outdated` files once it has begun.

    Raises:
        ProblemError: If it cannot be built.
    """
    from mmengine.registry import RUNNERS
    from mmengine.runner import Runner

    from mmrev.hooks import (ExactResumeHook, FiniteLossHook, MemoryBudgetHook, PhaseHook, ProgressHook,
                             SafeCheckpointHook, SanityHook)
    from mmrev.side_effects import log_outlives_reader

    from .entries import naming_entries
    with _config_kept(cfg), log_outlives_reader(), naming_entries(cfg), phase(
            'building the runner', f'Fix it in {cfg.filename}, or override it with --cfg-options KEY=VALUE'):
        prepare_cpu_processes(cfg)
        pin_memory(cfg)
        require_workers(cfg)
        require_priorities(cfg)
        cfg.load_from = cfg.get('load_from') or None  # mmengine would look for a file named ''
        _adopt_seed(cfg)
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
        for line in _remarks(cfg, runner.model) if 'runner_type' not in cfg else ():
            runner.logger.warning(line)
        exact = ExactResumeHook()
        runner.build_dataloader = functools.partial(_build_dataloader, runner, runner.build_dataloader, exact)
        PhaseHook.name_preparation(runner)
        own = [kind() for kind in (FiniteLossHook, MemoryBudgetHook, ProgressHook)
               if not any(isinstance(hook, kind) for hook in runner.hooks)]
        for hook in (PhaseHook(), exact, SanityHook(), SafeCheckpointHook(outdated), *own, *hooks):
            runner.register_hook(hook)
    return runner


def _remarks(cfg: 'Config', model: 'Module') -> Iterator[str]:
    """Name what nothing reads, with the keys of the same name that are read, and frozen weights that are random."""
    from mmengine.model import BaseAveragedModel

    from mmrev.analysis.initialization import frozen_layers

    from .entries import known_keys, walk
    for key in unread(cfg.filename or '', known_keys()):
        read = [path for path, _ in walk(cfg._cfg_dict, '') if path.endswith(f'.{key}')][:3]
        yield f'`{key}` in {cfg.filename} is read by nothing' + f'; the run reads {", ".join(read)}' * bool(read)
    loop = cfg.get('test_cfg')
    for key in loop if isinstance(loop, dict) and loop.get('type', 'TestLoop') == 'TestLoop' else ():
        if key not in ('type', 'fp16', '_scope_'):
            yield f'`test_cfg.{key}` is read by nothing; a model reads its own model.test_cfg'
    own = cfg.model.get('data_preprocessor') if isinstance(cfg.get('model'), dict) else None
    if own and cfg.get('data_preprocessor') not in (None, own):
        yield '`data_preprocessor` is read by nothing, for there is another one, model.data_preprocessor'
    for key in ((cfg.get('optim_wrapper') or {}).get('paramwise_cfg') or {}).get('custom_keys') or ():
        if not any(key in name for name, _ in model.named_parameters()):
            yield f'`optim_wrapper.paramwise_cfg.custom_keys` has `{key}`, which is in the name of no weight'
    places = re.compile(r'.*\.(checkpoint|pretrained|\w+_(ckpt|path))')
    loaded = [cfg.get('load_from'), cfg.get('resume'), *(value for path, value in walk(cfg.model, 'model')
                                                         if places.fullmatch(path))]
    frozen = frozen_layers(model, (BaseAveragedModel, )) if not any(loaded) else []
    if frozen:
        yield (f'{len(frozen)} layers are frozen, from `{frozen[0]}` on, and their weights are random: there is no '
               'load_from, nor a checkpoint in an init_cfg')


@contextlib.contextmanager
def _config_kept(cfg: 'Config') -> Iterator[None]:
    """Restore the user's config at the end of the block, if the runner's copy of it overwrites it in its work dir."""
    own, written = Path(cfg.filename or ''), Path(cfg.work_dir, osp.basename(cfg.filename or ''))
    if os.environ.get('RANK', '0') != '0' or not (own.is_file() and written.is_file() and written.samefile(own)):
        yield
        return
    text, state = own.read_bytes(), own.stat()
    try:
        yield
    finally:
        own.write_bytes(text)
        os.utime(own, ns=(state.st_atime_ns, state.st_mtime_ns))


def _adopt_seed(cfg: 'Config') -> None:
    """Take the seed of the run that is resumed. mmengine does so only after it has built the samplers."""
    from mmrev.checkpoints import load_local
    if cfg.get('resume') and cfg.get('load_from') and '://' not in cfg.load_from:
        seed = load_local(cfg.load_from)['meta'].get('seed')
        if isinstance(seed, int):
            cfg.randomness = dict(cfg.get('randomness') or {}, seed=seed)


def _build_dataloader(runner: 'Runner', build: Callable, exact: 'ExactResumeHook', config: Any, *args: Any,
                      **kwargs: Any) -> Any:
    from mmrev.hooks import PhaseHook
    with phase(f'building the dataloader of {" and ".join(_annotations(config)) or "a data set"}',
               'Fix them; --traceback shows where'):
        loader = build(config, *args, **kwargs)
    if hasattr(loader.dataset, '__len__') and not len(loader):
        size = getattr(loader.batch_sampler, 'batch_size', 'its sampler')
        raise ProblemError(f'{len(loader.dataset)} samples give no batch of {size}' +
                           ' with drop_last=True' * bool(getattr(loader.batch_sampler, 'drop_last', False)),
                           f'{"Lower batch_size, or look" if len(loader.dataset) else "Look"} at the filter_cfg, the '
                           'indices and the annotations of the data set')
    PhaseHook.name_samples(loader.dataset)
    exact.seed_samples(runner, loader)
    return loader


def _annotations(config: Any) -> Iterator[str]:
    """The annotation files that a config names, else the folders; of data sets within others as well."""
    if isinstance(config, dict) and (config.get('ann_file') or config.get('data_root')):
        yield f'`{osp.join(config.get("data_root") or "", config.get("ann_file") or "")}`'
    elif isinstance(config, (dict, list, tuple)):
        for child in config.values() if isinstance(config, dict) else config:
            yield from _annotations(child)


@contextlib.contextmanager
def running(runner: 'Runner', *parts: str) -> Iterator[None]:
    """Build parts of a runner, then run the block. The traceback of an exception goes to the log of what has begun.

    Args:
        runner: The runner.
        parts: Loops to build first: ``'train'``, ``'val'`` or ``'test'``.

    Raises:
        ProblemError: If an exception ends the block: status 2 before the first iteration, so that
            `work_dir.without_traces` deletes what was written, 1 after it.
    """
    from mmrev.side_effects import log_outlives_reader

    from .entries import known_fix, naming_entries
    try:
        for part in parts:
            with naming_entries(runner.cfg, parts), phase(
                    f'building {part}_dataloader, {part}_cfg' + f' and {part}_evaluator' * (part != 'train')):
                getattr(runner, f'{part}_loop')  # reading the attribute builds the loop and its data set
        with log_outlives_reader(), naming_entries(runner.cfg, parts), phase('running', status=1):
            yield
    except ProblemError as error:
        if re.search('Connection (reset|closed) by peer|Broken pipe', error.what):  # gloo
            error.what = f'{LOST}, which says why: {error.what}'
        error.fix = known_fix(error.what) or error.fix
        if 'BFloat16' in error.what:
            error.fix = f'Leave out --amp (or optim_wrapper.type), or train on a GPU. {error.fix}'
        if not any(getattr(hook, 'begun', False) for hook in runner.hooks):
            raise ProblemError(error.what, error.fix or 'Run again with --traceback') from error
        log = runner.logger.log_file
        with contextlib.suppress(OSError), open(log, 'a') as file:  # the folder may have been deleted
            traceback.print_exc(file=file)
        raise ProblemError(error.what, f'{error.fix}{". " * bool(error.fix)}The traceback is in {osp.relpath(log)}',
                           1) from error
