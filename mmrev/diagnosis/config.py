"""Checks of a config by itself: its sections, the classes that it names, and what mmengine builds without data."""
import copy
import functools
import inspect
import logging
import multiprocessing
import os.path as osp
from numbers import Real
from types import SimpleNamespace
from typing import Any, Callable, Iterator, Sequence, Tuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.device import get_device
from mmengine.optim import AmpOptimWrapper, OptimWrapper, build_optim_wrapper
from mmengine.registry import (DATA_SAMPLERS, DATASETS, EVALUATOR, HOOKS, LOG_PROCESSORS, LOOPS, METRICS, MODELS,
                               OPTIM_WRAPPERS, OPTIMIZERS, PARAM_SCHEDULERS, TASK_UTILS, TRANSFORMS, VISBACKENDS,
                               VISUALIZERS, Registry)
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader, Dataset

from mmrev.problems import Problem, closest
from mmrev.registry import find

from .plan import Plan, building, unknown_type, walk
from .signature import classes, hints, parameters, takes_text

_NEEDED = dict(train=('train_dataloader', 'train_cfg', 'optim_wrapper'), val=(),
               test=('test_dataloader', 'test_cfg', 'test_evaluator'))
_TOGETHER = (_NEEDED['train'], ('val_dataloader', 'val_cfg', 'val_evaluator'), _NEEDED['test'])
# Where a config names classes besides the model, and their registry. `*` is any key or list index.
_REGISTRIES: Tuple[Tuple[str, Registry], ...] = (
    ('{split}_dataloader.dataset', DATASETS), ('{split}_dataloader.sampler', DATA_SAMPLERS),
    ('{split}_dataloader.dataset.pipeline.*', TRANSFORMS), ('{split}_evaluator', METRICS),
    ('{split}_evaluator.*', METRICS), ('{split}_evaluator.metrics.*', METRICS), ('{split}_cfg', LOOPS),
    ('optim_wrapper', OPTIM_WRAPPERS), ('optim_wrapper.optimizer', OPTIMIZERS), ('param_scheduler', PARAM_SCHEDULERS),
    ('param_scheduler.*', PARAM_SCHEDULERS), ('default_hooks.*', HOOKS), ('custom_hooks.*', HOOKS),
    ('visualizer', VISUALIZERS), ('visualizer.vis_backends.*', VISBACKENDS), ('log_processor', LOG_PROCESSORS))
_NEED_A_TYPE = (DATASETS, DATA_SAMPLERS, TRANSFORMS, OPTIMIZERS, HOOKS, VISBACKENDS)
_OF_MMCV = ('norm_cfg', 'act_cfg', 'conv_cfg')  # which does not say what it did not find
_REWRITTEN = ('optim_wrapper', 'param_scheduler')  # by mmengine, before the class sees their keys
_PASSED_ON = {'CheckpointHook': Runner.save_checkpoint}  # a class's other keys, and what takes them late in the run
_PARAMWISE = ('custom_keys', 'bias_lr_mult', 'bias_decay_mult', 'norm_decay_mult', 'dwconv_decay_mult',
              'flat_decay_mult', 'dcn_offset_lr_mult', 'bypass_duplicate')
_ABOVE_ZERO = ('train_cfg.max_epochs', 'train_cfg.max_iters', 'train_cfg.val_interval', 'auto_scale_lr.base_batch_size')


def sections(plan: Plan) -> Iterator[Problem]:
    """The sections are there that the command needs, and each is what `Runner` takes."""
    cfg, file = plan.cfg, plan.cfg.filename
    for key in ('model', *(key for split in plan.splits for key in _NEEDED[split])):
        if cfg.get(key) is None:
            yield Problem(f'{file} has no `{key}`', 'Add it, or inherit it from a base of mmdet::_base_')
    for key, hint in hints(Runner).items():
        allowed, value = tuple(classes(hint)), cfg.get(key)
        if value is not None and not isinstance(value, allowed):
            kinds = [kind.__name__ for kind in allowed if kind.__module__ == 'builtins' and kind is not type(None)]
            yield Problem(f'`{key}` is {value!r}, not a {" or ".join(kinds)}',
                          plan.fix(key + '.KEY' * (dict in allowed)))
    for keys in _TOGETHER:
        missing = [key for key in keys if cfg.get(key) is None]
        if missing and len(missing) < len(keys) and missing[0] not in _NEEDED[plan.splits[0]]:
            there = ' and '.join(f'`{key}`' for key in keys if key not in missing)
            yield Problem(f'{file} has no `{missing[0]}`, but {there}', 'Add it, or set all three to None')
    if osp.exists(cfg.work_dir) and not osp.isdir(cfg.work_dir):
        yield Problem(f'work dir `{cfg.work_dir}` is a file', 'Name a folder with --work-dir')
    pretrained = cfg.get('pretrained')
    if pretrained is not None and all(node != pretrained for _, node in walk(cfg.get('model'), 'model')):
        yield Problem(f'`pretrained` at the top of {file} is read by nothing',
                      f'Leave it out, and say --cfg-options model.backbone.init_cfg.checkpoint={pretrained}, or in the '
                      f'config model = dict(backbone=dict(init_cfg=dict(checkpoint={pretrained!r})))')


def scope(plan: Plan) -> Iterator[Problem]:
    """Some package has the default scope; to mmengine an unknown one is as good as none."""
    name = plan.cfg.get('default_scope') or 'mmengine'
    with MODELS.switch_scope_and_registry(name) as registry:
        if registry.scope != name:
            yield Problem(f'there is no scope `{name}` (default_scope)',
                          f'{closest(name, [*MODULE2PACKAGE, "mmengine"])}Fix it in {plan.cfg.filename}, or import the '
                          'package that has it there: custom_imports=dict(imports=[...])')


def environment(plan: Plan) -> Iterator[Problem]:
    """Log level, seed, and how workers are started can be set."""
    level, randomness = plan.cfg.get('log_level') or 'INFO', plan.cfg.get('randomness') or dict(seed=None)
    start_method = ((plan.cfg.get('env_cfg') or {}).get('mp_cfg') or {}).get('mp_start_method')
    yield from building(plan, 'log_level', logging.Handler().setLevel, level)
    yield from building(plan, 'randomness', lambda: inspect.signature(Runner.set_randomness).bind(None, **randomness))
    yield from building(plan, 'randomness', np.random.seed, randomness.get('seed'))
    yield from building(plan, 'env_cfg.mp_cfg', multiprocessing.get_context, start_method)


def entries(plan: Plan) -> Iterator[Problem]:
    """Every class that is named is known, and takes the keys and values beside it."""
    for path, entry, among in _entries(plan):
        name, built = entry.get('type'), find(entry.get('type'), *among, scope=entry.get('_scope_'))
        section, last, in_model = path.split('.')[0], path.split('.')[-1], among[0] is MODELS
        if name is None and among[0] in _NEED_A_TYPE:
            yield Problem(f'`{path}` has no `type`, only {dict(entry)}',
                          f'Fix its name, or add the type in {plan.cfg.filename}')
        elif name == '' or name and built is None and (not in_model or last in _OF_MMCV):
            yield unknown_type(plan, name, among[0], path)
        elif built is not None:
            yield from misused(plan, built, entry, path, keys=not in_model and section not in _REWRITTEN)


def misused(plan: Plan, built: Callable, entry: dict, path: str, keys: bool = True, besides: Sequence[str] = ()
            ) -> Iterator[Problem]:
    """What the signature says against an entry: keys that are no arguments, texts where numbers stand.

    A misspelling on the command line is a text; to a flag it would be a truth.
    """
    name = getattr(built, '__name__', str(built))
    late = _PASSED_ON.get(name)
    known = {**parameters(built), **(parameters(late) if late else {})}
    closed = known and (late or all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in known.values()))
    for key in entry if keys and closed else ():
        if key not in known and key not in ('type', '_scope_', 'priority', *besides):
            yield Problem(f'`{path}.{key}`: {name} has no argument `{key}`',
                          f'{closest(key, [*known, *besides])}Fix it in {plan.cfg.filename}')
    found = {key: value for key, value in entry.items() if isinstance(value, str)}
    for key, hint in hints(built).items() if found else ():
        if key in found and not takes_text(hint, found[key]):
            yield Problem(f'`{path}.{key}` is the text `{found[key]}`; {name} takes {inspect.formatannotation(hint)} '
                          'there', plan.fix(f'{path}.{key}'))


def numbers(plan: Plan) -> Iterator[Problem]:
    """Numbers that must be above zero are."""
    for path in _ABOVE_ZERO:
        section, _, key = path.partition('.')
        value = (plan.cfg.get(section) or {}).get(key, 1)
        if not isinstance(value, str) and not (isinstance(value, Real) and value > 0):
            yield Problem(f'`{path}` is {value!r}, which must be a number above 0', plan.fix(path, 'NUMBER'))


def hooks(plan: Plan) -> Iterator[Problem]:
    """mmengine's hooks can be built; others may do more than keep their arguments."""
    for path, entry, among in _entries(plan):
        built = find(entry.get('type'), HOOKS, scope=entry.get('_scope_')) if among[0] is HOOKS else None
        if getattr(built, '__module__', '').startswith('mmengine.hooks.'):
            yield from building(plan, path, HOOKS.build, copy.deepcopy(entry))


def training(plan: Plan) -> Iterator[Problem]:
    """Training loop, optimizer and schedules can be built, and none of their keys is left unread."""
    cfg = copy.deepcopy(plan.cfg)
    if 'train' not in plan.splits or plan.model is None:
        return
    for key in cfg.optim_wrapper.get('paramwise_cfg') or () if 'constructor' not in cfg.optim_wrapper else ():
        if key not in _PARAMWISE and closest(key, _PARAMWISE):  # mmengine's constructor leaves it unread
            yield Problem(f'`optim_wrapper.paramwise_cfg.{key}`: mmengine reads no `{key}` there',
                          f'{closest(key, _PARAMWISE)}Fix it in {cfg.filename}')
    if find(cfg.optim_wrapper.get('type'), OPTIM_WRAPPERS) is AmpOptimWrapper and get_device() == 'cpu':
        yield Problem('`optim_wrapper.type` is AmpOptimWrapper, which needs a GPU, and there is none here',
                      'Add --amp to train in bfloat16 on the CPU; `mmrev doctor` lists the devices')
        return
    loop = yield from building(plan, 'train_cfg', _loop, cfg.train_cfg)
    wrapper = yield from building(plan, 'optim_wrapper', _wrapper, cfg.optim_wrapper, plan.model)
    schedules = cfg.get('param_scheduler') or []
    if loop is None or not isinstance(wrapper, OptimWrapper):
        return  # of the user's own kind
    for index, entry in enumerate([schedules] if isinstance(schedules, dict) else schedules):
        path = 'param_scheduler' + f'.{index}' * isinstance(schedules, (list, tuple))
        if isinstance(entry, dict):
            entry.setdefault('end', loop.max_epochs if entry.get('by_epoch', True) else loop.max_iters)
        build = functools.partial(PARAM_SCHEDULERS.build, default_args=dict(optimizer=wrapper, epoch_length=10 ** 8))
        yield from building(plan, path, build, entry)


def _loop(config: dict) -> Any:
    """The training loop, if it is one of mmengine's: one of the user's own may ask for the whole runner."""
    config.setdefault('type', 'EpochBasedTrainLoop' if config.pop('by_epoch', True) else 'IterBasedTrainLoop')
    if not find(config['type'], LOOPS).__module__.startswith('mmengine.'):
        return None
    return LOOPS.build(config, default_args=dict(runner=SimpleNamespace(visualizer=SimpleNamespace()),
                                                 dataloader=DataLoader(ManyImages())))


def _wrapper(config: dict, model: nn.Module) -> Any:
    """The optimizer's wrapper, which has clipped a gradient as it will in the first iteration."""
    wrapper = build_optim_wrapper(model, config)
    if getattr(wrapper, 'clip_grad_kwargs', None):
        weight = nn.Parameter(torch.ones(1))
        weight.grad = torch.ones(1)
        wrapper.clip_func([weight], **wrapper.clip_grad_kwargs)
    return wrapper


class ManyImages(Dataset):
    """Stands for a data set of unknown size: large, such that a schedule in iterations always ends within it."""

    metainfo: dict = {}

    def __len__(self) -> int:
        return 10 ** 8

    def __getitem__(self, index: int) -> dict:
        return {}


def _entries(plan: Plan) -> Iterator[Tuple[str, dict, Tuple[Registry, ...]]]:
    """Every entry that names a class, or should, with the registries of that class."""
    for path, entry in walk(plan.cfg.model, 'model'):
        if isinstance(entry, dict):
            yield path, entry, (MODELS, TASK_UTILS)
    for pattern, registry in _REGISTRIES:
        for split in plan.splits if '{split}' in pattern else ('', ):
            for path, entry in matching(plan.cfg, pattern.format(split=split)):
                if isinstance(entry, dict):
                    yield path, entry, (EVALUATOR if registry is METRICS and 'metrics' in entry else registry, )


def matching(node: Any, pattern: str, path: str = '') -> Iterator[Tuple[str, Any]]:
    """All ``(path, value)`` of a config that match a dotted pattern."""
    head, _, rest = pattern.partition('.')
    children = dict(enumerate(node)) if isinstance(node, (list, tuple)) else node
    for key in children if isinstance(children, (dict, Config)) else ():
        if head in ('*', key):
            inner = f'{path}.{key}'.lstrip('.')
            yield from matching(children[key], rest, inner) if rest else [(inner, children[key])]
