"""Whether the files of a config can be parsed, before mmengine runs them; mmengine names neither file nor line."""
import ast
import json
import os.path as osp
from pathlib import Path
from typing import Any, Collection, Dict, List, Sequence, Set

from mmrev.problems import ProblemError, closest, one_line

# What the runner of MMCV 1 read, and what MMEngine reads in its place.
_OF_MMCV_1 = dict(
    checkpoint_config='default_hooks.checkpoint', data='train_dataloader, val_dataloader and test_dataloader',
    evaluation='val_evaluator', fp16="optim_wrapper.type='AmpOptimWrapper'", log_config='default_hooks.logger',
    lr_config='param_scheduler', optimizer='optim_wrapper.optimizer', optimizer_config='optim_wrapper',
    resume_from='load_from and resume', runner='train_cfg', samples_per_gpu='train_dataloader.batch_size',
    seed='randomness.seed', total_epochs='train_cfg.max_epochs', workers_per_gpu='train_dataloader.num_workers')


def parsed(file: str, heirs: Sequence[str] = ()) -> List[str]:
    """Parse a config and its bases.

    Args:
        file: Its path.
        heirs: Absolute paths of the configs that inherit it, the first one first.

    Returns:
        The absolute paths of all these files.

    Raises:
        ProblemError: If a file does not exist, is not valid Python, JSON or YAML in UTF-8, or inherits itself; or if
            YAML would run code, or the first file sets what only MMCV 1 read.
    """
    path, shown = osp.abspath(file), osp.relpath(file)
    if not osp.isfile(path):
        near = closest(osp.basename(path), [other.name for other in Path(path).parent.glob('*.py')])
        raise ProblemError(f'`{shown}`, a `_base_` of `{osp.relpath(heirs[-1])}`, does not exist',
                           near or 'Bases are relative to the config that inherits them, or SCOPE::FOLDER/NAME.py')
    if path in heirs:
        circle = ' -> '.join(map(osp.relpath, (*heirs[heirs.index(path):], path)))
        raise ProblemError(f'configs inherit each other in a circle: {circle}', 'Remove one of these `_base_`')
    found, bases = [path], _bases(path, shown, not heirs)
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, (list, tuple)) or not all(isinstance(base, str) and base for base in bases):
        raise ProblemError(f'`_base_` of `{shown}` is {bases!r}', 'Name a config, or a list of configs')
    for base in bases:
        if '::' not in base and '{{' not in base:  # of a package, or a variable of mmengine
            found += parsed(osp.join(osp.dirname(path), base), (*heirs, path))
    return found


def _bases(path: str, shown: str, first: bool) -> Any:
    """The `_base_` of a config; () if it has none, or computes it."""
    try:
        with open(path, encoding='utf-8') as stream:
            text = stream.read()
        if path.endswith('.py'):
            tree = ast.parse(text)
            assigned = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
            if first:
                _refuse_mmcv_1(tree, assigned, shown)
            return ast.literal_eval(assigned['_base_']) if _is_literal(assigned.get('_base_')) else ()
        content = _loaded(path, text)
    except ProblemError:
        raise
    except UnicodeDecodeError as error:
        raise ProblemError(f'`{shown}` is no text in UTF-8: byte {error.start} is {error.object[error.start]:#x}',
                           'Save it in UTF-8') from error
    except SyntaxError as error:
        line = f', line {error.lineno}: {error.msg}: `{(error.text or "").strip()[:80]}`'
        raise ProblemError(f'`{shown}`{line if error.lineno else f": {error.msg}"}',
                           'Save it in UTF-8 without a byte order mark' if text[:1] == '\ufeff' else 'Fix that line'
                           ) from error
    except Exception as error:  # of a parser
        raise ProblemError(f'`{shown}` cannot be parsed: {one_line(error)}', 'Fix it') from error
    if not isinstance(content, dict):
        raise ProblemError(f'`{shown}` holds {str(content)[:60]!r}, not a dict of sections', 'Fix it')
    return content.get('_base_', ())


def unread(file: str, known: Collection[str]) -> List[str]:
    """Variables of a config in Python that neither it nor the runner reads, such as ``data_root`` of a child config.

    Args:
        file: Its path; for other files there are none.
        known: The keys that something reads at the top of a config.
    """
    if not file.endswith('.py'):
        return []
    with open(file, encoding='utf-8') as stream:
        tree = ast.parse(stream.read())
    assigned = [target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets
                if isinstance(target, ast.Name) and not target.id.startswith('_')]
    read = {*known, *_loaded_names(tree)}
    return [] if _is_dumped(tree) else [key for key in dict.fromkeys(assigned) if key not in read]


def _is_dumped(tree: ast.Module) -> bool:
    """Whether mmengine wrote a config: it sorts keys, and keeps the variables of bases."""
    assigned = [ast.unparse(node.targets[0]) for node in tree.body if isinstance(node, ast.Assign)]
    return '_base_' not in assigned and assigned == sorted(assigned)


def _loaded_names(tree: ast.Module) -> Set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


def _refuse_mmcv_1(tree: ast.Module, assigned: Dict[str, ast.expr], shown: str) -> None:
    """Refuse keys that only MMCV 1 read, unless they are variables, also those of a config that mmengine wrote."""
    if _is_dumped(tree):
        return
    empty = {key for key, value in assigned.items() if isinstance(value, ast.Constant) and value.value is None}
    for key in sorted({*assigned} & {*_OF_MMCV_1} - _loaded_names(tree) - empty):
        raise ProblemError(f'`{key}` in `{shown}` is read by nothing: MMCV 1 did',
                           f'Set {_OF_MMCV_1[key]} instead, and leave it out')


def _is_literal(node: Any) -> bool:
    return node is not None and all(isinstance(part, (ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.expr_context))
                                    for part in ast.walk(node))


def _loaded(path: str, text: str) -> Any:
    import yaml
    if path.endswith('.json'):
        return json.loads(text)
    if path.endswith(('.yaml', '.yml')):
        return yaml.load(text, Loader=yaml.FullLoader)  # which constructs tuples, and runs nothing
    raise ValueError('names of configs end in .py, .json, .yaml or .yml')
