"""What can be wrong with a run, looked at before anything is written.

Nothing here changes the config or the disk. Each check raises `UserError`.
"""
import copy
import inspect
import os.path as osp
import pickle
import zipfile
from pathlib import Path
from typing import Any, Dict, Iterator, Tuple

import torch
from mmengine.config import Config
from mmengine.registry import (DATA_SAMPLERS, DATASETS, EVALUATOR, HOOKS, LOOPS, METRICS, MODELS, OPTIM_WRAPPERS,
                               OPTIMIZERS, PARAM_SCHEDULERS, TRANSFORMS, VISBACKENDS, VISUALIZERS, Registry,
                               init_default_scope)
from torch import nn

from mmrev.apis import allow_mmengine_checkpoints
from mmrev.cli.classes import check_classes
from mmrev.cli.errors import UserError, closest, start_up, unknown_type

TRAIN_KEYS = ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper')
TEST_KEYS = ('model', 'test_dataloader', 'test_cfg', 'test_evaluator')


def check_config(cfg: Config, keys: Tuple[str, ...]) -> nn.Module:
    """Check what the config names: that its classes exist, its model can be built and its data is there.

    Args:
        cfg: The config, with the command line merged in.
        keys: What it must have, `TRAIN_KEYS` or `TEST_KEYS`.

    Returns:
        The model, without weights.
    """
    for key in keys:
        if cfg.get(key) is None:
            raise UserError(f'{cfg.filename} has no `{key}`', 'Add it, or inherit it from a base of mmdet::_base_')
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    splits = ('train', 'val') if keys is TRAIN_KEYS else ('test', )
    check_data(cfg, splits)
    with start_up(f'Mend {cfg.filename}, or override it with --cfg-options KEY=VALUE'):
        check_types(cfg, splits)
        model = MODELS.build(copy.deepcopy(cfg.model))  # some models write into the config that they are built from
        for split in splits:
            path = f'{split}_dataloader.dataset'
            check_classes((cfg.get(f'{split}_dataloader') or {}).get('dataset'), path, model, cfg.filename)
    return model


def check_weights(model: nn.Module, checkpoint: Dict[str, Any], file: str) -> None:
    """Check that a checkpoint has weights of this model; mmengine itself would go on with random ones."""
    weights = checkpoint.get('state_dict', checkpoint)
    known = {key.removeprefix('module.') for key in model.state_dict()}
    if not any(isinstance(key, str) and key.removeprefix('module.') in known for key in weights):
        raise UserError(f'checkpoint `{file}` holds no weight of this config\'s {type(model).__name__}',
                        'Give the config that it was trained with')


# Where a config names classes besides the model, and the registry that they come from. `*` is any key or list index.
_REGISTRIES: Tuple[Tuple[str, Registry], ...] = (
    ('{split}_dataloader.dataset', DATASETS), ('{split}_dataloader.sampler', DATA_SAMPLERS),
    ('{split}_dataloader.dataset.pipeline.*', TRANSFORMS), ('{split}_evaluator', METRICS),
    ('{split}_evaluator.*', METRICS), ('{split}_evaluator.metrics.*', METRICS), ('{split}_cfg', LOOPS),
    ('optim_wrapper', OPTIM_WRAPPERS), ('optim_wrapper.optimizer', OPTIMIZERS), ('param_scheduler.*', PARAM_SCHEDULERS),
    ('default_hooks.*', HOOKS), ('custom_hooks.*', HOOKS), ('visualizer', VISUALIZERS),
    ('visualizer.vis_backends.*', VISBACKENDS))
_KEYS_ARE_REWRITTEN = ('optim_wrapper', 'param_scheduler')  # by mmengine, before the class sees them


def check_types(cfg: Config, splits: Tuple[str, ...]) -> None:
    """Check that every ``type=`` outside the model is known, and takes the keys beside it."""
    for pattern, registry in _REGISTRIES:
        for split in splits if '{split}' in pattern else ('', ):
            for path, entry in _entries(cfg, pattern.format(split=split)):
                name = entry.get('type') if isinstance(entry, dict) else None
                if isinstance(name, str):
                    known_by = EVALUATOR if registry is METRICS and 'metrics' in entry else registry
                    built = _look_up(name, entry, path, known_by, cfg.filename)
                    _check_keys(built, entry, path, cfg.filename)


def _look_up(name: str, entry: dict, path: str, registry: Registry, file: str) -> Any:
    """The class or function that a config entry names."""
    with registry.switch_scope_and_registry(entry.get('_scope_')) as scoped:
        try:
            built = scoped.get(name)
        except RuntimeError:  # mmengine: "Failed to get ..."
            built = None
        if built is None:
            raise unknown_type(name, scoped, f'{path}.type', f'Mend it in {file}, or import your own class there: '
                               'custom_imports=dict(imports=[...])')
    return built


def _check_keys(built: Any, entry: dict, path: str, file: str) -> None:
    """Check that the entry's keys are arguments of what it builds, as far as its signature says."""
    try:
        parameters = inspect.signature(built).parameters
    except ValueError:  # written in C, without one
        return
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    if takes_any or path.split('.')[0] in _KEYS_ARE_REWRITTEN:
        return
    for key in entry:
        if key not in parameters and key not in ('type', '_scope_', 'priority'):
            raise UserError(f'`{path}.{key}`: {entry["type"]} has no argument `{key}`',
                            f'{closest(key, parameters)}Mend it in {file}')


def _entries(node: Any, pattern: str, path: str = '') -> Iterator[Tuple[str, Any]]:
    """All ``(path, value)`` of the config that match a dotted pattern."""
    head, _, rest = pattern.partition('.')
    children = dict(enumerate(node)) if isinstance(node, (list, tuple)) else node
    if not isinstance(children, (dict, Config)):
        return
    for key in children if head == '*' else [head] if head in children else []:
        inner = f'{path}.{key}'.lstrip('.')
        if rest:
            yield from _entries(children[key], rest, inner)
        else:
            yield inner, children[key]


def check_data(cfg: Config, splits: Tuple[str, ...]) -> None:
    """Check that the annotation files and image folders of the data sets are there."""
    for split in splits:
        _check_dataset((cfg.get(f'{split}_dataloader') or {}).get('dataset'), f'{split}_dataloader.dataset')
        for path, evaluator in [*_entries(cfg, f'{split}_evaluator'), *_entries(cfg, f'{split}_evaluator.*')]:
            if isinstance(evaluator, dict) and isinstance(evaluator.get('ann_file'), str) and _reads_files(evaluator):
                _check_annotation(evaluator['ann_file'], f'{path}.ann_file')


def _check_dataset(node: Any, path: str) -> None:
    """Check one data set, or those in a wrapper of data sets."""
    if isinstance(node, (list, tuple)):
        for index, child in enumerate(node):
            _check_dataset(child, f'{path}.{index}')
    if not isinstance(node, dict):
        return
    if _reads_files(node):
        _check_places(node, path)
    for key, child in node.items():
        if key != 'pipeline':
            _check_dataset(child, f'{path}.{key}')


def _reads_files(entry: dict) -> bool:
    """Whether an entry reads this machine's files, not those of a store behind one of mmengine's backends."""
    return (entry.get('backend_args') or {}).get('backend', 'local') == 'local'


def _check_places(node: dict, path: str) -> None:
    """Check annotation file and image folders of one data set."""
    root = node.get('data_root') or ''
    if isinstance(node.get('ann_file'), str) and node['ann_file']:
        _check_annotation(_join(root, node['ann_file']), f'{path}.ann_file')
    prefixes = node.get('data_prefix') or {}
    for key, folder in (prefixes.items() if isinstance(prefixes, dict) else [('', prefixes)]):
        folder = _join(root, folder) if isinstance(folder, str) else ''
        if folder and _is_local(folder) and not osp.isdir(folder):
            raise UserError(f'image folder `{folder}` does not exist ({f"{path}.data_prefix.{key}".rstrip(".")})',
                            _where_to_set(path))


def _check_annotation(file: str, path: str) -> None:
    if not _is_local(file):
        return
    if not osp.exists(file):
        raise UserError(f'annotation file `{file}` does not exist ({path})', _where_to_set(path.rpartition('.')[0]))
    if file.endswith('.json') and not _is_whole_json(file):
        raise UserError(f'annotation file `{file}` is empty or cut off ({path})', 'Copy or download it again')


def _where_to_set(path: str) -> str:
    return f'Put the data there, or say where it is: --cfg-options {path}.data_root=FOLDER' if 'dataset' in path else \
        f'Say where it is: --cfg-options {path}.ann_file=FILE'


def _join(root: str, path: str) -> str:
    return path if not path or osp.isabs(path) or not _is_local(path) else osp.join(root, path)


def _is_local(path: str) -> bool:
    return '://' not in path and not path.startswith('s3:')


def _is_whole_json(file: str) -> bool:
    """Whether a JSON file ends as it begins; annotation files are too large to read for that."""
    with open(file, 'rb') as stream:
        head = stream.read(64).lstrip()[:1]
        stream.seek(max(0, osp.getsize(file) - 64))
        tail = stream.read().rstrip()[-1:]
    return (head, tail) in ((b'{', b'}'), (b'[', b']'))


def read_checkpoint(file: str, needed: Tuple[str, ...] = ()) -> Dict[str, Any]:
    """Read a local checkpoint as mmengine will, and check that it is whole.

    Args:
        file: Its path.
        needed: Keys that it must have.

    Returns:
        What it holds, mapped from disk where the format allows it.
    """
    file = osp.expanduser(file)
    if not osp.isfile(file):
        siblings = [path.name for path in Path(file).absolute().parent.glob('*.pth')]
        raise UserError(f'checkpoint `{file}` does not exist',
                        closest(osp.basename(file), siblings) or 'Checkpoints lie in the work dir of the training run')
    allow_mmengine_checkpoints()
    zipped, cause = zipfile.is_zipfile(file), None
    try:
        damaged = zipfile.ZipFile(file).testzip() if zipped else None
        checkpoint = torch.load(file, map_location='cpu', mmap=zipped) if not damaged else None
    except Exception as error:  # whatever a reader of foreign bytes runs into
        if zipped and isinstance(error, pickle.UnpicklingError):
            names = ', '.join(torch.serialization.get_unsafe_globals_in_checkpoint(file))
            raise UserError(f'checkpoint `{file}` holds objects that torch.load does not trust: {names}', 'If you do, '
                            'call torch.serialization.add_safe_globals in a module of custom_imports') from error
        damaged, cause = 'it', error
    if damaged:
        raise UserError(f'checkpoint `{file}` ({osp.getsize(file):,} bytes) cannot be read: truncated, damaged or no '
                        'checkpoint', 'Copy it again, or take another one of that run') from cause
    if not isinstance(checkpoint, dict):
        raise UserError(f'checkpoint `{file}` holds a {type(checkpoint).__name__}, not a dict of weights')
    missing = [key for key in needed if key not in checkpoint]
    if missing:
        raise UserError(f'checkpoint `{file}` cannot be resumed: it has no {", ".join(f"`{key}`" for key in missing)}',
                        f'To start from its weights: --cfg-options load_from={file}')
    return checkpoint
