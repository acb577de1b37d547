"""Checks of a config alone: its sections, the classes that it names, and what mmengine builds without data."""
import copy
import functools
import inspect
import logging
import math
import multiprocessing
import re
from numbers import Real
from typing import Callable, Iterator, Sequence, Tuple, get_origin

from mmengine._strategy import BaseStrategy
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.device import get_device
from mmengine.optim import AmpOptimWrapper, OptimWrapper, _ParamScheduler, build_optim_wrapper
from mmengine.registry import (DATA_SAMPLERS, DATASETS, EVALUATOR, HOOKS, LOG_PROCESSORS, LOOPS, METRICS, MODELS,
                               OPTIM_WRAPPERS, OPTIMIZERS, PARAM_SCHEDULERS, TASK_UTILS, TRANSFORMS, VISBACKENDS,
                               VISUALIZERS, Registry)
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, LogProcessor, Runner, set_random_seed

from mmrev.apis.entries import known_keys, walk
from mmrev.problems import Problem, closest, one_line
from mmrev.registry import find

from .plan import Plan, building, unknown_type
from .signature import alternatives, hints, parameters, source, takes_text

_TOGETHER = dict(train=('train_dataloader', 'train_cfg', 'optim_wrapper'),
                 val=('val_dataloader', 'val_cfg', 'val_evaluator'),
                 test=('test_dataloader', 'test_cfg', 'test_evaluator'))
# Regular expressions of the paths at which a config names classes, and the registries of these classes.
_REGISTRIES = {
    r'model(\..+)?': (MODELS, TASK_UTILS), r'SPLIT_dataloader\.dataset': (DATASETS, ),
    r'SPLIT_dataloader\.sampler': (DATA_SAMPLERS, ),
    r'(SPLIT_dataloader\.dataset\.|custom_hooks\.\d+\.switch_)pipeline\.\d+': (TRANSFORMS, ),
    r'SPLIT_evaluator(\.metrics)?(\.\d+)?': (METRICS, EVALUATOR), r'SPLIT_cfg': (LOOPS, ),
    r'optim_wrapper': (OPTIM_WRAPPERS, ), r'optim_wrapper\.optimizer': (OPTIMIZERS, ),
    r'param_scheduler(\.\w+)?': (PARAM_SCHEDULERS, ), r'(default|custom)_hooks\.\w+': (HOOKS, ),
    r'visualizer': (VISUALIZERS, ), r'visualizer\.vis_backends\.\d+': (VISBACKENDS, ),
    r'log_processor': (LOG_PROCESSORS, )}
_NEED_A_TYPE = (DATASETS, DATA_SAMPLERS, TRANSFORMS, OPTIMIZERS, HOOKS, VISBACKENDS)
_OF_MMCV = ('norm_cfg', 'act_cfg', 'conv_cfg')  # mmcv does not say what it did not find there
_DICTS = (r'env_cfg\.(mp|dist)_cfg|optim_wrapper\.(paramwise_cfg|optimizer|clip_grad)|param_scheduler\.\d+|'
          r'\w+_dataloader\.(dataset|sampler|collate_fn|worker_init_fn)|(default|custom)_hooks\.\w+|visualizer\.vis_backends(\.\d+)?|'
          r'\w+_evaluator\.\d+|model\..*\.init_cfg')  # regular expression of the paths at which dicts stand
_LOOPS = (IterBasedTrainLoop, EpochBasedTrainLoop)
_REWRITTEN = ('optim_wrapper', 'param_scheduler')  # mmengine changes their keys before it calls the class
_PASSED_ON = {'CheckpointHook': Runner.save_checkpoint}  # class: the function that gets its other keys late in the run
_PARAMWISE = ['custom_keys', 'bias_lr_mult', 'bias_decay_mult', 'norm_decay_mult', 'dwconv_decay_mult',
              'flat_decay_mult', 'dcn_offset_lr_mult', 'bypass_duplicate']
_MANY = 10 ** 8  # iterations; more than any schedule has
# Regular expressions of the paths of numbers, what must hold for these numbers, and how a message says it.
_RANGES: Sequence[Tuple[str, Callable, str]] = (
    (r'train_cfg\.(max_epochs|max_iters|val_interval|dynamic_intervals\.\d+\.1)|auto_scale_lr\.base_batch_size|'
     r'log_processor\.window_size|optim_wrapper\.(accumulative_counts|clip_grad\.(max_norm|clip_value|norm_type))|'
     r'.*_scheduler\.(.*\.)?(step_size|T_max)|((model\.)?data_preprocessor\.|.*pipeline\.(.*\.)?)std(\.\d+)?|'
     r'.*anchor_generator\.(scales|ratios)\.\d+|.*topk(\.\d+)?|.*prefetch_factor|.*dataset\.times|'
     r'model\..*((output|mask|crop|patch|kernel|feat)_size|target_stds|(?<!on_)strides?|num_(classes|outs)|finest_scale|'
     r'(in|out|feat)_channels|pad_size_divisor|sampler\.num|(rpn\w*|test_cfg)\.max_per_img)(\.\d+)*',
     lambda number: number > 0, 'finite number above 0'),
    (r'optim_wrapper\.optimizer\.(lr|weight_decay|eps)|train_cfg\.val_begin|.*(_mult|drop(_path)?_rate|num_(convs|digits)|'
     r'(loss_weight|class_weight\.\d+)|\.eps)|.*_scheduler\.(.*\.)?(\w+_factor|gamma|eta_m\w+|power|begin|milestones\.\d+)',
     lambda number: 0 <= number < math.inf, 'finite number from 0'),
    (r'optim_wrapper\.(.+\.)?optimizer\.(momentum|dampening|alpha|rho)', lambda x: 0 <= x < 1, 'number from 0 below 1'),
    (r'.*(pos_fraction|\.score_thr|iou_thr\w*|r\.thresh|cat_max_ratio)', lambda x: 0 <= x <= 1, 'number from 0 to 1'),
    (r'.*(mask_thr_binary|dropout_ratio)', lambda x: x <= 1, 'number up to 1'),
    (r'\w+_hooks\.\w+\.(interval|max_keep_ckpts)', lambda x: x == -1 or x > 0, 'number from 1, or -1'),
    (r'train_cfg\.by_epoch', lambda number: number in (0, 1), 'flag, True or False'),
    (r'.*_scheduler\.(.*\.)?(step_size|milestones\.\d+)', lambda number: number % 1 == 0, 'whole number'))
_SIMILAR = 0.85  # keys that are so near to one that is read are misspelt


def sections(plan: Plan) -> Iterator[Problem]:
    """The sections that the command needs exist and have the types that `Runner` takes."""
    cfg, file = plan.cfg, plan.cfg.filename
    if cfg.get('model') is None:
        yield Problem(f'{file} has no `model`', 'Add it, or inherit it from a base of mmdet::_base_')
    for split, keys in _TOGETHER.items():
        missing = [key for key in keys if cfg.get(key) is None]
        if missing and (split == plan.splits[0] or len(missing) < len(keys)):
            yield Problem(f'{file} has no `{missing[0]}`, which belongs to {" and ".join(keys)}',
                          'Add it, inherit it from a base of mmdet::_base_, or set all three to None')
    for key, hint in hints(Runner).items():
        allowed, value = tuple(get_origin(inner) or inner for inner in alternatives(hint)), cfg.get(key)
        if value is not None and not isinstance(value, allowed):
            kinds = [kind.__name__ for kind in allowed if kind.__module__ == 'builtins' and kind is not type(None)]
            yield Problem(f'`{key}` is {value!r}, not a {" or ".join(kinds)}',
                          plan.fix(key + '.KEY' * (dict in allowed)))
    for path, node in walk(cfg._cfg_dict, ''):
        if isinstance(node, (int, float, str)) and re.fullmatch(_DICTS, path):
            yield Problem(f'`{path}` is {node!r}, not a dict',
                          plan.fix(*((f'{path}.checkpoint', node) if '.init_cfg' in path else (f'{path}.KEY', ))))
    pretrained = cfg.get('pretrained')
    if pretrained is not None and all(node != pretrained for _, node in walk(cfg.get('model'), 'model')):
        yield Problem(f'`pretrained` at the top of {file} is read by nothing',
                      f'Leave it out, and say --cfg-options model.backbone.init_cfg.checkpoint={pretrained}')


def scope(plan: Plan) -> Iterator[Problem]:
    """The default scope exists; mmengine ignores an unknown one."""
    name = plan.cfg.get('default_scope') or 'mmengine'
    with MODELS.switch_scope_and_registry(name) as registry:
        if registry.scope != name:
            yield Problem(f'there is no scope `{name}` (default_scope)',
                          f'{closest(name, {*MODULE2PACKAGE, "mmengine"} - {name})}Import it in {plan.cfg.filename}')


def environment(plan: Plan) -> Iterator[Problem]:
    """Seed, log level and start method of workers are valid."""
    processes = (plan.cfg.get('env_cfg') or {}).get('mp_cfg') or {}
    yield from misused(plan, BaseStrategy._setup_env, plan.cfg.get('env_cfg') or {}, 'env_cfg')  # the runner's is alike
    yield from misused(plan, set_random_seed, plan.cfg.get('randomness') or {}, 'randomness')
    yield from building(plan, 'log_level', logging.Handler().setLevel, plan.cfg.get('log_level') or 'INFO')
    yield from building(plan, 'env_cfg.mp_cfg', multiprocessing.get_context, processes.get('mp_start_method'))


def entries(plan: Plan) -> Iterator[Problem]:
    """Every class exists and takes the keys and values of its entry."""
    for path, entry, among in named_classes(plan):
        name, built = entry.get('type'), find(entry.get('type'), *among, scope=entry.get('_scope_'))
        section, last, in_model = path.split('.')[0], path.split('.')[-1], among[0] is MODELS
        if name is None and path in ('train_cfg', 'log_processor', 'optim_wrapper'):  # as mmengine does
            built = dict(l=LogProcessor, o=OptimWrapper, t=_LOOPS[bool(entry.get('by_epoch', True))])[path[0]]
        if name is None and among[0] in _NEED_A_TYPE:
            yield Problem(f'`{path}` has no `type`, only {dict(entry)}', f'Check its name. {plan.fix(f"{path}.type")}')
        elif name == '' or name and built is None and (not in_model or last in _OF_MMCV):
            yield unknown_type(plan, name, among[0], path)
        elif built is not None:
            yield from misused(plan, built, entry, path, not in_model and section not in _REWRITTEN, ('by_epoch', ))
            if among[0] is HOOKS and built.__module__.startswith('mmengine.hooks.'):  # others may have side effects
                yield from building(plan, path, HOOKS.build, {k: v for k, v in entry.items() if k != 'priority'})


def misused(plan: Plan, built: Callable, entry: dict, path: str, keys: bool = True, besides: Sequence[str] = ()
            ) -> Iterator[Problem]:
    """Compare an entry with a signature: keys that are no arguments, strings in place of numbers.

    A misspelt value on the command line is a string, which counts as true where a bool is expected.
    """
    name = getattr(built, '__name__', str(built))
    late = _PASSED_ON.get(name) if name != 'EMAHook' else find(
        entry.get('ema_type', 'ExponentialMovingAverage'), MODELS)
    known = {**parameters(built), **(parameters(late) if late else {})}
    closed = known and (late or all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in known.values()))
    for key in entry if keys and closed else ():
        if key not in known and key not in ('type', '_scope_', 'priority', *besides):
            yield Problem(f'`{path}.{key}`: {name} has no argument `{key}`',
                          f'{closest(key, [*known, *besides])}Fix it in {plan.cfg.filename}; if a base sets it for '
                          'another class, add _delete_=True')
    for key, hint in {**(hints(late) if late else {}), **hints(built)}.items():
        value, kinds = entry.get(key, ...), {*alternatives(hint)}
        no_text = isinstance(value, str) and not takes_text(hint, value, built)
        no_list = keys and isinstance(value, (list, dict)) and kinds <= {int, float, bool, type(None)}
        no_whole = isinstance(value, float) and getattr(known.get(key), 'annotation', '') in (int, 'int') and value % 1
        no_none = value is None and kinds == {float} and getattr(known.get(key), 'default', None) is not None
        if (no_text or no_list or no_none or no_whole) and f'{path}.{key}' not in plan.mistyped:
            plan.mistyped.add(f'{path}.{key}')
            yield Problem(f'`{path}.{key}` is {f"the text `{value}`" if no_text else repr(value)}; {name} takes '
                          f'{inspect.formatannotation(hint)} there', plan.fix(f'{path}.{key}'))


def numbers(plan: Plan) -> Iterator[Problem]:
    """Numbers lie in their ranges, none is NaN, and the thresholds of an assigner leave no overlap."""
    for path, value in walk(plan.cfg._cfg_dict, ''):
        ranges = [entry for entry in _RANGES if re.fullmatch(entry[0], path)]
        if isinstance(value, Real):
            wrong = [words for _, holds, words in ranges if not holds(value)] or ['number'] * (value != value)
        else:
            wrong = [words for *_, words in ranges if path.startswith('train_cfg.') or isinstance(value, str)]
        if wrong and path not in plan.mistyped:
            yield Problem(f'`{path}` is {value!r}, which must be a {wrong[0]}', plan.fix(path, 'NUMBER'))
        least, most = (value.get(f'{sign}_iou_thr') if isinstance(value, dict) else None for sign in ('pos', 'neg'))
        if isinstance(least, Real) and any(isinstance(part, Real) and part > least for _, part in walk(most, '')):
            yield Problem(f'`{path}.neg_iou_thr` is {most!r}, above pos_iou_thr={least}',
                          plan.fix(f'{path}.neg_iou_thr', str(least)))


def keys(plan: Plan) -> Iterator[Problem]:
    """Of the keys that nothing reads, none is nearly one that is read in the same place."""
    known, wrapper = known_keys(), plan.cfg.get('optim_wrapper') or {}
    kinds = [find(entry.get('type'), *among, scope=entry.get('_scope_')) for _, entry, among in named_classes(plan)
             if among[0] is MODELS]
    code = '\n'.join({source(base) for kind in kinds for base in getattr(kind, '__mro__', ())})
    words, read = {*re.findall(r'\w+', code)}, [*re.findall(r'cfg\W+(?:get\W+|pop\W+)?([a-z]\w+)', code)]
    places = [(key, key, [*known, 'test_pipeline'], _SIMILAR)  # a usual variable
              for key in plan.cfg if not known & {key} and 'runner_type' not in plan.cfg
              and not any(key.startswith(f'{name}_') for name in known & {*plan.cfg})]  # such as `val_evaluator_2`
    nested = [(r'.*\.dataset\.metainfo', ['classes', 'palette'], _SIMILAR),
              (r'.*\.dataset\.filter_cfg', ['filter_empty_gt', 'min_size', 'bbox_min_size'], _SIMILAR),
              (r'optim_wrapper\.paramwise_cfg', [] if 'constructor' in wrapper else _PARAMWISE, 0.6),
              (r'optim_wrapper\.paramwise_cfg\.custom_keys\..+', ['lr_mult', 'decay_mult'], 0.6),
              (r'env_cfg\.mp_cfg', ['mp_start_method', 'opencv_num_threads'], 0.),
              (r'model\.(.+\.)?(train|test)_cfg(\..+)?', read, 0.6)]
    for path, entry in walk(plan.cfg._cfg_dict, ''):
        for part, choices, likeness in nested if isinstance(entry, dict) else ():
            if re.fullmatch(part, path) and not (choices is read and 'type' in entry):
                places += [(f'{path}.{key}', str(key).lower(), choices, likeness) for key in entry
                           if choices is not read or key not in words]
    if plan.model is not None:
        custom = (wrapper.get('paramwise_cfg') or {}).get('custom_keys') or {}
        weights = [*dict(plan.model.named_parameters()), *dict(plan.model.named_modules())]
        weights += '.'.join(weights).split('.')
        places += [(f'optim_wrapper.paramwise_cfg.custom_keys.{key}', key, weights, _SIMILAR)
                   for key in custom if not any(key in name for name in weights)]
    for path, key, choices, likeness in places:
        near = closest(key, choices, likeness)
        if near and f'`{path.split(".")[-1]}`' not in near:
            yield Problem(f'`{path}` is read by nothing', f'{near}Fix it in {plan.cfg.filename}')


def training(plan: Plan) -> Iterator[Problem]:
    """Optimizer and schedules can be built and stepped, and read all their keys; what is to be checkpointed exists."""
    cfg = copy.deepcopy(plan.cfg)
    if 'train' not in plan.splits or plan.model is None:
        return
    recomputed = cfg.get('activation_checkpointing') or ()
    for name in [recomputed] if isinstance(recomputed, str) else recomputed:
        yield from building(plan, 'activation_checkpointing', plan.model.get_submodule, name)
    if find(cfg.optim_wrapper.get('type'), OPTIM_WRAPPERS) is AmpOptimWrapper and get_device() == 'cpu':
        yield Problem('`optim_wrapper.type` is AmpOptimWrapper, which needs a GPU, and there is none here',
                      'Add --amp to train in bfloat16 on the CPU; `mmrev doctor` lists the devices')
        return
    wrapper = yield from building(plan, 'optim_wrapper', build_optim_wrapper, plan.model, cfg.optim_wrapper)
    schedules = cfg.get('param_scheduler') or []
    if not isinstance(wrapper, OptimWrapper):
        return  # a custom wrapper
    if wrapper.clip_grad_kwargs:
        yield from misused(plan, wrapper.clip_func, wrapper.clip_grad_kwargs, 'optim_wrapper.clip_grad')
    for index, entry in enumerate([schedules] if isinstance(schedules, dict) else schedules):
        path = 'param_scheduler' + f'.{index}' * isinstance(schedules, (list, tuple))
        if isinstance(entry, dict):  # as mmengine does
            last = cfg.train_cfg.get('max_epochs' if entry.get('by_epoch', True) else 'max_iters')
            entry.setdefault('end', last or _MANY)
        build = functools.partial(PARAM_SCHEDULERS.build, default_args=dict(optimizer=wrapper, epoch_length=_MANY))
        schedule = yield from building(plan, path, build, entry)
        try:
            for _ in range(min(200, getattr(schedule, 'total_steps', 201) - 1) * isinstance(schedule, _ParamScheduler)):
                schedule.step()
        except Exception as error:  # arguments are used at the first step, in a run after the first epoch
            yield Problem(f'`{path}` fails when it is stepped: {one_line(error)}', plan.fix(f'{path}.KEY'), error)


def named_classes(plan: Plan) -> Iterator[Tuple[str, dict, Tuple[Registry, ...]]]:
    """Yield every entry that names a class, or should, with the registries of that class."""
    for path, entry in walk(plan.cfg._cfg_dict, ''):
        for pattern, among in _REGISTRIES.items() if isinstance(entry, dict) else ():
            if re.fullmatch(pattern.replace('SPLIT', f'({"|".join(plan.splits)})'), path):
                yield path, entry, among
