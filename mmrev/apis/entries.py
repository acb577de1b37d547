"""Entries of a config: all of them, and the one that an exception is about."""
import contextlib
import inspect
import re
import sys
import traceback
from os.path import commonprefix
from types import CodeType
from typing import Any, Iterator, Sequence, Set, Tuple

from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS, TASK_UTILS, TRANSFORMS, VISBACKENDS, VISUALIZERS
from mmengine.runner import Runner

from mmrev.problems import ProblemError, chained, closest
from mmrev.registry import find

# Keys that mmengine, mmdet and mmpretrain read from a config in addition to the arguments of the runner.
_READ_BESIDES = ('activation_checkpointing', 'compile', 'custom_imports', 'efficient_conv_bn_eval',
                 'find_unused_parameters', 'model_wrapper_cfg', 'runner_type', 'strategy', 'sync_bn',
                 'tta_model', 'tta_pipeline', 'pretrained')  # for which `diagnosis.config.sections` names a replacement
_UNWRITABLE = 'Failed to format the config file'
# Parts of messages of PyTorch and NumPy, and the way out.
_FIXES = {
    'need at least one array':  # of mmengine, where a filter leaves no sample
        'No sample is left: look at filter_cfg and indices of the data set, compare metainfo.classes with the names in '
        'the annotations',
    'Expected more than 1 value per channel':
        'Batch norm needs several values: larger images or batches, or train_dataloader.drop_last=True where one '
        'sample is left for the last batch',
    'ddress already in use': 'Set MASTER_PORT to a port that is free',
    'more than one parameter group':
        'Several parts of the model share a weight: set optim_wrapper.paramwise_cfg.bypass_duplicate=True',
}
_BUILT = (MODELS, TASK_UTILS, HOOKS, METRICS, TRANSFORMS, DATASETS, VISUALIZERS, VISBACKENDS)
# Functions of mmengine, and the section that they read; other functions are named after theirs.
_READ_BY = {'setup_env': 'env_cfg', 'scale_lr': 'auto_scale_lr', 'set_randomness': 'randomness',
            'build_runner_from_cfg': 'runner_type', **{f'build_{part}_loop': f'{part}_cfg' for part in (
                'train', 'val', 'test')}}


def walk(node: Any, path: str) -> Iterator[Tuple[str, Any]]:
    """Yield the node of a config at `path` and all nodes below it, each with its path."""
    yield path, node
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for key, child in children:
        yield from walk(child, f'{path}.{key}'.lstrip('.'))


def known_keys() -> Set[str]:
    """The keys that something reads at the top of a config."""
    return {*inspect.signature(Runner).parameters, *_READ_BESIDES}


def entry_passed(error: BaseException, config: Any, path: str = '') -> str:
    """The path of the innermost entry whose class an exception passed, such as ``model.roi_head.bbox_head``; or ''.

    Of several entries of a class, it is the one below an entry that the exception passed as well; if all of them lie
    below one entry, that entry.

    Args:
        error: The exception.
        config: The config, or a part of it.
        path: The path of that part.
    """
    own = {place: _code(find(entry['type'], *_BUILT, scope=entry.get('_scope_')))
           for place, entry in walk(config, path) if isinstance(entry, dict) and entry.get('type')}
    codes, found = [*_passed(error)], []
    in_model = any(code in own.get('model', ()) for code in codes)  # where heads call metrics
    for code in codes:
        passed = [place for place in own if code in own[place] and not (in_model and '_evaluator' in place)]
        found = [place for place in found if any(place.startswith(f'{outer}.') for outer in passed)] or found or passed
        if len(found) == 1:
            break
    if not found and any(code.co_filename.endswith('data_preprocessor.py') for code in codes):
        return 'model.data_preprocessor' * (path == '')  # its type is known to the model
    return '.'.join(commonprefix([place.split('.') for place in found]))


def _passed(error: BaseException) -> Iterator[CodeType]:
    """The code of the functions that an exception passed, from that which raised it outward."""
    for link in chained(error):
        yield from (frame.f_code for frame, _ in reversed([*traceback.walk_tb(link.__traceback__)]))


def _code(built: Any) -> Set[CodeType]:
    """The code of a function, or of the methods of a class, without those of bases such as ``nn.Module``."""
    bases = [kind for kind in getattr(built, '__mro__', ()) if kind is built or not re.match(
        r'(torch|builtins)\.|mm(engine|cv)\..*\.(Base\w+|Hook)$', f'{kind.__module__}.{kind.__name__}')]
    values = [value for kind in bases for value in vars(kind).values()] or [built]
    functions = [inspect.unwrap(getattr(value, '__func__', getattr(value, 'fget', value))) for value in values]
    return {function.__code__ for function in functions if inspect.isfunction(function)}


@contextlib.contextmanager
def naming_entries(cfg: Any, parts: Sequence[str] = ()) -> Iterator[None]:
    """Name the entry of the config that an exception of the block is about.

    The message begins with its path where the phase is a general one; where there is no fix, it becomes one.

    Args:
        cfg: The config of the run.
        parts: ``'train'``, ``'val'`` and ``'test'``, as far as they are run; all by default.

    Raises:
        ProblemError: That of the block, with the path of the entry if it is found.
    """
    try:
        yield
    except ProblemError as error:
        general = re.match(r'(building the runner|running|building \w+_dataloader, .*?): ', error.what)
        cause = error.__cause__
        if cause is None or isinstance(cause, PermissionError) or not general and (
                error.fix or 'out of memory' in error.what):
            raise
        read = {key: value for key, value in cfg._cfg_dict.items() if key in known_keys()
                and (not parts or key.split('_')[0] not in {'train', 'val', 'test'} - {*parts})}
        path = entry_passed(cause, read) or _section_of(cause, cfg) * bool(general)
        if not path:
            error.fix = known_fix(error.what) or error.fix
            raise
        what = re.sub(r' in <\S+ object at \w+>$', '', error.what[general.end() if general else 0:])
        if what.startswith(_UNWRITABLE):
            what = 'its value cannot be written as Python, as mmengine does with each config'
        entry = next((entry for place, entry in walk(cfg._cfg_dict, '') if place == path), None)
        key = f'.{key_named(what, entry)}' * (isinstance(entry, (dict, list)) and what[:3] != 'its')
        fix = known_fix(what) or (f'{_meant(what, entry)}Fix {"it" if general else f"`{path}`"} in {cfg.filename}, or '
                                  f'override it with --cfg-options {path}{key}=VALUE')
        raise ProblemError(f'`{path}`: {what}' if general else what, fix, error.status) from cause


def known_fix(words: str) -> str:
    """The way out for a message of PyTorch or NumPy, or ''."""
    lacks = re.search(r"'ConfigDict' object has no attribute '(\w+)'", words)
    if lacks:
        return f'A dict of the config, such as train_cfg or test_cfg of the model, lacks `{lacks.group(1)}`: add it'
    return next((fix for part, fix in _FIXES.items() if part in words), '')


def key_named(words: str, entry: Any) -> str:
    """The key of an entry that a message is about, or ``KEY``.

    The message has it as it is, quoted if it is a usual word, or in part if a list stands there.
    """
    for quote, word in re.findall(r'([`\'"]?)\b([a-z]\w*)', words) if isinstance(entry, dict) else ():
        for key, value in entry.items():
            whole = key == word != 'type' and (quote or '_' in key)
            if whole or key.endswith(f'_{word}') and isinstance(value, (list, tuple)):
                return key
    return 'KEY'


def _meant(words: str, entry: Any) -> str:
    """Where a message quotes a value that a class does not take: the nearest names in its code, as part of a fix."""
    built = find(entry.get('type'), *_BUILT) if isinstance(entry, dict) else None
    known: Set[str] = set()
    if re.search('support|invalid|one of', words):
        with contextlib.suppress(OSError, TypeError, AttributeError, KeyError):
            known = {*re.findall(r'[\'"](\w+)[\'"]', inspect.getsource(sys.modules[built.__module__]))}
    return next(filter(None, (closest(name, known) for name in re.findall(r'[\'"`](\w+)[\'"`]', words)
                              if name not in known)), '')


def _section_of(error: BaseException, cfg: Any) -> str:
    """The section of the config whose function raised, or the path of a value that cannot be written; or ''."""
    if str(error).startswith(_UNWRITABLE):  # a lambda, whose text is no Python
        return next((path for path, value in walk(cfg._cfg_dict, '') if repr(value).startswith('<')), '')
    loads, sections = False, sorted((key for key in cfg if cfg[key] is not None), key=len, reverse=True)
    for frame, _ in (step for link in chained(error) for step in reversed([*traceback.walk_tb(link.__traceback__)])):
        module, function = frame.f_globals.get('__name__', ''), frame.f_code.co_name
        loads = loads or module.startswith('torch.utils.data')
        if loads and function == 'run_epoch':  # of the training alone
            return 'train_dataloader'
        in_runner = module.startswith(('mmengine.runner', 'mmengine._strategy', 'mmengine.registry'))
        if in_runner and _READ_BY.get(function) in sections:
            return _READ_BY[function]
        for key in sections:
            if key in function and (in_runner or '_' in key and module.startswith('mmengine.')):
                return key
    return ''
