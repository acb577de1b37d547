"""Find the entry of a config that an exception of mmengine is about, from the frames that it passed."""
import contextlib
import re
import traceback
from typing import Any, Dict, Iterator, Tuple

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch.utils.data import DataLoader

from mmrev.problems import ProblemError
from mmrev.registry import find

_UNWRITABLE = 'Failed to format the config file'
_PLAIN = (dict, list, tuple, str, int, float, type(None))


@contextlib.contextmanager
def naming_entries(cfg: Any, runner: Any = None) -> Iterator[None]:
    """Name the entry of the config that an exception of the block is about, where its phase is a general one.

    Raises:
        ProblemError: That of the block, with the path of the entry if it is found.
    """
    try:
        yield
    except ProblemError as error:
        general = re.match(r'(building the runner|running|building \w+_dataloader, .*?): ', error.what)
        path = culprit(error.__cause__, cfg, runner) if general and error.__cause__ else ''
        if general is None or not path:
            raise
        what = re.sub(r' in <\S+ object at \w+>$', '', error.what[general.end():])
        if what.startswith(_UNWRITABLE):
            what = 'its value cannot be written as Python, as mmengine does with each config'
        key = '.KEY' * (isinstance(cfg.get(path.split('.')[0]), (dict, list)) and what[:3] != 'its')
        raise ProblemError(f'`{path}`: {what}', f'Fix it in {cfg.filename}, or override it with --cfg-options '
                           f'{path}{key}=VALUE', error.status) from error.__cause__


def culprit(error: BaseException, cfg: Any, runner: Any = None) -> str:
    """The path of the entry of `cfg` that was being used, such as ``custom_hooks.0``; empty if that is unknown.

    It is what the innermost frame with such a thing works on: a hook, a dataloader, what a registry builds, or a
    section of the config that a function of the runner has as an argument or in its name.

    Args:
        error: The exception.
        cfg: The config of the run.
        runner: The runner, if it has been built.
    """
    sections: Dict[str, Any] = {key: cfg.get(key) for key in cfg}
    if str(error).startswith(_UNWRITABLE):  # a lambda, whose text is no Python
        return next((path for path, value in _nodes(sections) if repr(value).startswith('<')), '')
    chain = [error]
    while True:  # mmengine raises TypeErrors of hooks again
        earlier = chain[-1].__cause__ or chain[-1].__context__
        if earlier is None:
            break
        chain.append(earlier)
    for frame, _ in (step for link in reversed(chain) for step in reversed([*traceback.walk_tb(link.__traceback__)])):
        values, name = frame.f_locals, frame.f_code.co_name
        for path, entry in _objects(values.get('self'), sections, runner):
            return path if entry else ''
        if name == 'build_from_cfg':
            for path, entry in _nodes(sections):
                if isinstance(entry, dict) and entry == values.get('cfg') and path.split('.')[0] != 'model':
                    return path
        if name == 'build_runner_from_cfg' and 'runner_type' in sections:
            return 'runner_type'
        module = frame.f_globals.get('__name__', '')
        in_runner = module.startswith(('mmengine.runner', 'mmengine._strategy'))
        arguments = [key for key in frame.f_code.co_varnames[:frame.f_code.co_argcount]
                     if in_runner and sections.get(key) is not None and isinstance(values.get(key), _PLAIN)]
        if len(arguments) == 1:  # not the constructor of the runner
            return arguments[0]
        for key in sorted(sections, key=len, reverse=True):
            in_part = '_' in key and module.startswith('mmengine.')
            if key in name and sections[key] is not None and (in_runner or in_part):
                return key
    return ''


def _objects(owner: Any, sections: Dict[str, Any], runner: Any) -> Iterator[Tuple[str, Any]]:
    """The path of a hook or dataloader."""
    if isinstance(owner, Hook) and type(owner).__module__.split('.')[0] != 'mmrev':
        for section in ('custom_hooks', 'default_hooks'):
            hooks = sections.get(section) or ()
            for key, entry in hooks.items() if isinstance(hooks, dict) else enumerate(hooks):
                if isinstance(entry, dict) and find(entry.get('type'), HOOKS) is type(owner):
                    yield f'{section}.{key}', entry
    if isinstance(owner, DataLoader):
        for split in ('train', 'val', 'test'):
            if getattr(getattr(runner, f'_{split}_loop', None), 'dataloader', None) is owner:
                yield f'{split}_dataloader', sections.get(f'{split}_dataloader')


def _nodes(sections: Dict[str, Any]) -> Iterator[Tuple[str, Any]]:
    """All nodes of a config, each with its path."""
    left: list = [('', sections)]
    while left:
        path, node = left.pop(0)
        yield path, node
        if isinstance(node, (dict, list, tuple)):
            children = node.items() if isinstance(node, dict) else enumerate(node)
            left += [(f'{path}.{key}'.lstrip('.'), child) for key, child in children]
