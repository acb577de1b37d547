"""What can be wrong with a run, looked at before anything is written.

Nothing here changes the config or the disk. Each check raises `ProblemError`.
"""
import copy
import os.path as osp
from typing import Any, Dict, Iterator, Tuple

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.device import get_device
from mmengine.registry import (DATA_SAMPLERS, DATASETS, EVALUATOR, HOOKS, LOG_PROCESSORS, LOOPS, METRICS, MODELS,
                               OPTIM_WRAPPERS, OPTIMIZERS, PARAM_SCHEDULERS, TASK_UTILS, TRANSFORMS, VISBACKENDS,
                               VISUALIZERS, Registry, init_default_scope)
from mmengine.runner import Runner
from torch import nn

from mmrev.checkpoints import has_published_form, load_from_published_file, mismatch, read
from mmrev.cli.arguments import check_keys, check_values, registry_class
from mmrev.cli.classes import check_classes
from mmrev.cli.errors import building, start_up, unknown_type, walk
from mmrev.cli.rehearsal import alone, rehearse_data, rehearse_environment, rehearse_training, unnoticed
from mmrev.cli.shapes import check_bfloat16, check_channels
from mmrev.hooks import check_activations
from mmrev.optim import BFloat16OptimWrapper
from mmrev.problems import ProblemError, closest

TRAIN_KEYS = ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper')
TEST_KEYS = ('model', 'test_dataloader', 'test_cfg', 'test_evaluator')


def check_config(cfg: Config, keys: Tuple[str, ...]) -> nn.Module:
    """Check what the config says: that its data is there, and that all of it can be built and fits together.

    Args:
        cfg: The config, with the command line merged in.
        keys: What it must have, `TRAIN_KEYS` or `TEST_KEYS`.

    Returns:
        The model, without weights, in evaluation mode.
    """
    for key in keys:
        if cfg.get(key) is None:
            raise ProblemError(f'{cfg.filename} has no `{key}`', 'Add it, or inherit it from a base of mmdet::_base_')
    _check_together(cfg)
    scope = cfg.get('default_scope') or 'mmengine'
    splits = ('train', 'val') if keys is TRAIN_KEYS else ('test', )
    init_default_scope(scope)
    with unnoticed(), alone(cfg.get('launcher', 'none')):
        _check_scope(scope, cfg.filename)
        rehearse_environment(cfg)
        check_data(cfg, splits)
        with start_up(f'Mend {cfg.filename}, or override it with --cfg-options KEY=VALUE'):
            check_types(cfg, splits)
        check_model(cfg)
        with building('model', cfg.model, cfg.filename):
            model_cfg = copy.deepcopy(cfg.model)  # some models write into the config
            if cfg.get('data_preprocessor'):
                model_cfg.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))  # as the runner does
            model = MODELS.build(model_cfg)
            check_activations(model)
        for split in splits:
            dataset = (cfg.get(f'{split}_dataloader') or {}).get('dataset')
            rehearse_data(cfg, split)
            check_classes(dataset, f'{split}_dataloader.dataset', model, cfg.filename)
        if keys is TRAIN_KEYS:
            check_pretrained(cfg)
            optim_wrapper = rehearse_training(cfg, model)
        check_channels(model, cfg.filename)
        if keys is TRAIN_KEYS and isinstance(optim_wrapper, BFloat16OptimWrapper) and get_device() == 'cpu':
            check_bfloat16(model)
    return model


# What a section of a config must be; one that it does not have, or that is `None`, is not looked at here.
_KINDS: Dict[str, Tuple[type, ...]] = {
    **dict.fromkeys(['model', 'optim_wrapper', 'default_hooks', 'auto_scale_lr', 'visualizer', 'log_processor',
                     'randomness', 'env_cfg', 'custom_imports',
                     *(f'{split}_{part}' for split in ('train', 'val', 'test') for part in ('dataloader', 'cfg'))],
                    (dict, )),
    **dict.fromkeys(['param_scheduler', 'val_evaluator', 'test_evaluator'], (dict, list)), 'custom_hooks': (list, ),
    **dict.fromkeys(['default_scope', 'load_from', 'work_dir', 'log_level'], (str, )),
    'resume': (bool, )}
_TOGETHER = (('train_dataloader', 'train_cfg', 'optim_wrapper'), ('val_dataloader', 'val_cfg', 'val_evaluator'),
             ('test_dataloader', 'test_cfg', 'test_evaluator'))


def check_sections(cfg: Config) -> None:
    """Check that each section of the config is what it has to be."""
    for key, kinds in _KINDS.items():
        if isinstance(cfg.get(key), list) and list in kinds and not all(isinstance(entry, dict) for entry in cfg[key]):
            raise ProblemError(f'`{key}` is {cfg[key]!r}, not a list of dict(type=...)', f'Mend it in {cfg.filename}')
        if cfg.get(key) is not None and not isinstance(cfg[key], kinds):
            raise ProblemError(f'`{key}` is {cfg[key]!r}, not a {" or ".join(kind.__name__ for kind in kinds)}',
                            f'Mend it in {cfg.filename} or --cfg-options; single entries are overridden as '
                            f'{key}.KEY=VALUE' if str not in kinds else f'Mend it in {cfg.filename} or --cfg-options')


def _check_together(cfg: Config) -> None:
    """Check that those sections are there which need each other."""
    for keys in _TOGETHER:
        missing = [key for key in keys if cfg.get(key) is None]
        if missing and len(missing) < len(keys):
            raise ProblemError(f'{cfg.filename} has no `{missing[0]}`, but one of '
                            f'{" and ".join(f"`{key}`" for key in keys if key not in missing)}',
                            'Add it, or set all three to None')


def _check_scope(scope: str, file: str) -> None:
    """Check that some package has this scope; to mmengine an unknown one is as good as none."""
    with MODELS.switch_scope_and_registry(scope) as registry:
        if registry.scope != scope:
            raise ProblemError(f'there is no scope `{scope}` (default_scope)',
                            f'{closest(scope, [*MODULE2PACKAGE, "mmengine"])}Mend it in {file}, or import the '
                            'package that has it there: custom_imports=dict(imports=[...])')


def check_model(cfg: Config) -> None:
    """Check of the model what its classes might not notice: a text instead of numbers, an unknown kind of layer."""
    for path, entry in walk(cfg.model, 'model'):
        name = entry.get('type') if isinstance(entry, dict) else None
        if not name or not isinstance(name, str):
            continue
        found = [registry_class(name, registry, entry.get('_scope_')) for registry in (MODELS, TASK_UTILS)]
        for built in filter(None, found):
            check_values(built, entry, path, cfg.filename)
        if found[0] is None and path.split('.')[-1] in ('norm_cfg', 'act_cfg', 'conv_cfg'):
            raise unknown_type(name, MODELS, f'{path}.type', f'Mend it in {cfg.filename}')


def check_pretrained(cfg: Config) -> None:
    """Check the local checkpoints that ``init_cfg`` of the model, or of its parts, names."""
    for path, entry in walk(cfg.model, 'model'):
        if isinstance(entry, dict) and entry.get('type') == 'Pretrained' and '://' not in str(entry.get('checkpoint')):
            try:
                read_checkpoint(str(entry.get('checkpoint')))
            except ProblemError as error:
                raise ProblemError(f'{error.what} ({path}.checkpoint)', error.fix) from error


def check_weights(model: nn.Module, checkpoint: Dict[str, Any], file: str, remedy: str = '') -> None:
    """Check that a checkpoint is of this model; mmengine itself would go on with random weights.

    Args:
        model: The model.
        checkpoint: What `read_checkpoint` gave.
        file: Where that is from.
        remedy: Where all of its parameters are needed, rather than a single one: what to do if one is not there.

    Raises:
        ProblemError: If it is not.
    """
    state = checkpoint.get('state_dict', checkpoint)
    weights = {key.removeprefix('module.'): value for key, value in state.items() if isinstance(key, str)}
    known = {key.removeprefix('module.') for key in model.state_dict()}  # of a model with augmentation around it
    if not weights.keys() & known:
        raise ProblemError(f'checkpoint `{file}` holds no weight of this config\'s {type(model).__name__}',
                        'Give the config that it was trained with')
    other = remedy and mismatch(model, checkpoint)
    if other:
        raise ProblemError(f'checkpoint `{file}` is of another model: {other}', remedy)


# Where a config names classes besides the model, and the registry that they come from. `*` is any key or list index.
_REGISTRIES: Tuple[Tuple[str, Registry], ...] = (
    ('{split}_dataloader.dataset', DATASETS), ('{split}_dataloader.sampler', DATA_SAMPLERS),
    ('{split}_dataloader.dataset.pipeline.*', TRANSFORMS), ('{split}_evaluator', METRICS),
    ('{split}_evaluator.*', METRICS), ('{split}_evaluator.metrics.*', METRICS), ('{split}_cfg', LOOPS),
    ('optim_wrapper', OPTIM_WRAPPERS), ('optim_wrapper.optimizer', OPTIMIZERS), ('param_scheduler', PARAM_SCHEDULERS),
    ('param_scheduler.*', PARAM_SCHEDULERS), ('default_hooks.*', HOOKS), ('custom_hooks.*', HOOKS),
    ('visualizer', VISUALIZERS), ('visualizer.vis_backends.*', VISBACKENDS), ('log_processor', LOG_PROCESSORS))
_DEFAULTS = {'train_cfg': 'EpochBasedTrainLoop', 'val_cfg': 'ValLoop', 'test_cfg': 'TestLoop',
             'log_processor': 'LogProcessor', 'visualizer': 'Visualizer', 'optim_wrapper': 'OptimWrapper'}
_NEED_A_TYPE = (DATASETS, DATA_SAMPLERS, TRANSFORMS, OPTIMIZERS, HOOKS, VISBACKENDS)
_PASSED_ON = {'CheckpointHook': Runner.save_checkpoint}  # a class's other keys, and what takes them late in the run
_KEYS_ARE_REWRITTEN = ('optim_wrapper', 'param_scheduler')  # by mmengine, before the class sees them


def check_types(cfg: Config, splits: Tuple[str, ...]) -> None:
    """Check that every ``type=`` outside the model is known, and takes the keys and values beside it."""
    for pattern, registry in _REGISTRIES:
        for split in splits if '{split}' in pattern else ('', ):
            for path, entry in _entries(cfg, pattern.format(split=split)):
                if isinstance(entry, dict):
                    _check_type(entry, path, registry, cfg.filename)


def _check_type(entry: dict, path: str, registry: Registry, file: str) -> None:
    name = entry.get('type') or _DEFAULTS.get(path)
    if name is None:
        if registry in _NEED_A_TYPE:
            raise ProblemError(f'`{path}` has no `type`, only {dict(entry)}', f'Mend its name, or add the type in {file}')
    elif isinstance(name, str):
        if path == 'train_cfg' and entry.get('by_epoch') is False:
            name = 'IterBasedTrainLoop'
        built = _look_up(name, entry, path, EVALUATOR if registry is METRICS and 'metrics' in entry else registry, file)
        if path.split('.')[0] not in _KEYS_ARE_REWRITTEN:
            check_keys(built, entry, path, file, ('by_epoch', ) * (path == 'train_cfg'),
                       _PASSED_ON.get(name.split('.')[-1]))
        check_values(built, entry, path, file)


def _look_up(name: str, entry: dict, path: str, registry: Registry, file: str) -> Any:
    """The class or function that a config entry names."""
    built = registry_class(name, registry, entry.get('_scope_'))
    if built is None:
        raise unknown_type(name, registry, f'{path}.type', f'Mend it in {file}, or import your own class there: '
                           'custom_imports=dict(imports=[...])')
    return built


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
            raise ProblemError(f'image folder `{folder}` does not exist ({f"{path}.data_prefix.{key}".rstrip(".")})',
                            _where_to_set(path))


def _check_annotation(file: str, path: str) -> None:
    if not _is_local(file):
        return
    if not osp.exists(file):
        raise ProblemError(f'annotation file `{file}` does not exist ({path})', _where_to_set(path.rpartition('.')[0]))
    if file.endswith('.json') and not _is_whole_json(file):
        raise ProblemError(f'annotation file `{file}` is empty or cut off ({path})', 'Copy or download it again')


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
    if has_published_form(file):
        read(file, mmap=True)
        checkpoint = load_from_published_file(file, 'cpu')
    else:
        checkpoint = read(file, trusted=(), mmap=True)
    if not isinstance(checkpoint, dict):
        raise ProblemError(f'checkpoint `{file}` holds a {type(checkpoint).__name__}, not a dict of weights')
    missing = [key for key in needed if key not in checkpoint]
    if missing:
        raise ProblemError(f'checkpoint `{file}` cannot be resumed: it has no {", ".join(f"`{key}`" for key in missing)}',
                        f'To start from its weights: --cfg-options load_from={file}')
    return checkpoint
