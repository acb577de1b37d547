"""Entries of a config: all of them, and the one that an exception of mmengine is about."""
import contextlib
import re
import traceback
from typing import Any, Iterator, Sequence, Tuple

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmrev.problems import ProblemError, chained, passed_by
from mmrev.registry import find

_UNWRITABLE = 'Failed to format the config file'
# Functions of mmengine, and the section that they read; other functions are named after theirs.
_READ_BY = {'setup_env': 'env_cfg', 'scale_lr': 'auto_scale_lr', 'set_randomness': 'randomness',
            'build_runner_from_cfg': 'runner_type'}


def walk(node: Any, path: str) -> Iterator[Tuple[str, Any]]:
    """Yield the node of a config at `path` and all nodes below it, each with its path."""
    yield path, node
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for key, child in children:
        yield from walk(child, f'{path}.{key}'.lstrip('.'))


@contextlib.contextmanager
def naming_entries(cfg: Any, hooks: Sequence[Hook] = ()) -> Iterator[None]:
    """Name the entry of the config that an exception of the block is about, where its phase is a general one.

    Args:
        cfg: The config of the run.
        hooks: Those of the runner, if it has been built.

    Raises:
        ProblemError: That of the block, with the path of the entry if it is found.
    """
    try:
        yield
    except ProblemError as error:
        general = re.match(r'(building the runner|running|building \w+_dataloader, .*?): ', error.what)
        path = _entry_of(error.__cause__, cfg, hooks) if general and error.__cause__ else ''
        if general is None or not path:
            raise
        what = re.sub(r' in <\S+ object at \w+>$', '', error.what[general.end():])
        if what.startswith(_UNWRITABLE):
            what = 'its value cannot be written as Python, as mmengine does with each config'
        key = '.KEY' * (isinstance(cfg.get(path.split('.')[0]), (dict, list)) and what[:3] != 'its')
        raise ProblemError(f'`{path}`: {what}', f'Fix it in {cfg.filename}, or override it with --cfg-options '
                           f'{path}{key}=VALUE', error.status) from error.__cause__


def _entry_of(error: BaseException, cfg: Any, hooks: Sequence[Hook]) -> str:
    """The path of the entry, such as ``custom_hooks.0``: a hook, or a section whose function raised; or ''."""
    if str(error).startswith(_UNWRITABLE):  # a lambda, whose text is no Python
        return next((path for path, value in walk(cfg._cfg_dict, '') if repr(value).startswith('<')), '')
    hook = passed_by(error, [hook for hook in hooks if type(hook).__module__.split('.')[0] != 'mmrev'], Hook)
    if hook is not None:
        return next((path for path, entry in walk(cfg._cfg_dict, '') if path.startswith(('custom_', 'default_hooks.'))
                     and isinstance(entry, dict) and find(entry.get('type'), HOOKS) is type(hook)), '')
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
