"""What works in a training, but is rarely meant: warnings for its log."""
import os
import re
import time
from typing import Any, Dict, Iterable, Iterator

from mmengine.runner import EpochBasedTrainLoop

from .phase_hook import innermost

_SECONDS = 1.  # for which annotations are read, and folders searched
_MOST = 1000  # samples of a data set that are compared with those of another


def remarks(runner) -> Iterator[str]:
    """What is rarely meant in the loops, schedules, optimizer and hooks of a training."""
    loop = runner.train_loop
    unit, last = ('epoch', runner.max_epochs) if isinstance(loop, EpochBasedTrainLoop) else (
        'iteration', runner.max_iters)
    if runner._val_loop is not None and getattr(loop, 'val_begin', 1) > last:
        yield f'nothing is validated: train_cfg.val_begin is {loop.val_begin}, and the training ends at {unit} {last}'
    groups = getattr(runner.optim_wrapper, 'param_groups', None) or ()
    if isinstance(groups, list) and not any(group.get('initial_lr', group.get('lr')) for group in groups):
        yield 'the learning rate of every weight is 0: nothing is trained'
    accumulated = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
    if accumulated > runner.max_iters:
        yield (f'optim_wrapper.accumulative_counts is {accumulated}, and the training has {runner.max_iters} '
               'iterations: the weights change once')
    if getattr(getattr(loop.dataloader, 'sampler', None), 'shuffle', True) is False:
        yield 'train_dataloader.sampler has shuffle=False: every epoch has the same order of samples'
    yield from _unfinished_schedules(runner)
    yield from _no_checkpoint(runner)
    yield from contrary_rules(runner.hooks)


def _unfinished_schedules(runner) -> Iterator[str]:
    schedules = runner.param_schedulers
    for schedule in schedules if isinstance(schedules, list) else ():
        unit, last = ('epoch', runner.max_epochs) if getattr(schedule, 'by_epoch', True) else (
            'iteration', runner.max_iters)
        begin, end = getattr(schedule, 'begin', 0), getattr(schedule, 'end', 0)
        late = [begin + step for step in getattr(schedule, 'milestones', ()) if begin + step >= last]
        name = type(schedule).__name__
        if begin >= last:
            yield f'{name} begins at {unit} {begin}, and the training ends at {last}'
        elif late:
            yield f'{name} has a milestone at {unit} {min(late)}, and the training ends at {last}'
        elif last < end < 10**9:  # which stands for infinity in mmengine
            yield f'{name} ends at {unit} {end}, and the training at {last}'
        elif getattr(schedule, 'T_max', 0) > last - begin:
            yield f'{name} takes {schedule.T_max} {unit}s (T_max), and the training ends {last - begin} after its begin'


def _no_checkpoint(runner) -> Iterator[str]:
    for hook in runner.hooks:
        if hasattr(hook, 'save_last') and not hook.save_last and not getattr(hook, 'save_best', None):
            last = runner.max_epochs if hook.by_epoch else runner.max_iters
            if not 0 < hook.interval <= last:
                yield (f'{type(hook).__name__} writes no checkpoint: save_last=False, interval={hook.interval}, '
                       f'and the training ends at {last}')


def contrary_rules(watchers: Iterable[Any]) -> Iterator[str]:
    """Rules of hooks that contradict the name of the metric, such as the lowest mAP."""
    for watcher in watchers:
        names = getattr(watcher, 'key_indicators', None) or [getattr(watcher, 'monitor', None)]
        rules = getattr(watcher, 'rules', None) or [getattr(watcher, 'rule', None)]
        usual = {rule: getattr(watcher, f'{rule}_keys', None) or getattr(watcher, f'_default_{rule}_keys', None) or ()
                 for rule in ('greater', 'less')}
        for name, rule in zip(names, rules):
            other = next((one for one, keys in usual.items() if any(key.lower() in str(name).lower() for key in keys)),
                         rule)
            if rule in usual and other != rule and not re.search('err|mape', str(name).lower()):
                yield f'{type(watcher).__name__} has rule={rule!r} for `{name}`, of which a {other} value is better'


def _broken_links(dataset: Any) -> Iterator[str]:
    """Symbolic links to nothing in the folders of a data set that lists them itself; as many as a second finds."""
    begin, prefixes = time.monotonic(), getattr(dataset, 'data_prefix', None)
    folders = {value for value in prefixes.values() if isinstance(value, str) and value} if isinstance(
        prefixes, dict) and not getattr(dataset, 'ann_file', '') else ()
    for folder in sorted(folders):
        for root, _, files in os.walk(folder):
            for file in (os.path.join(root, name) for name in files):
                if time.monotonic() - begin > _SECONDS:
                    return
                if not os.path.exists(file):
                    yield file


def of_data(datasets: Dict[str, Any]) -> Iterator[str]:
    """Links to nothing, images that are validated as well as trained, classes of which a detector sees no object."""
    for name, dataset in datasets.items():
        broken = [file for one in innermost(dataset) for file in _broken_links(one)]
        if broken:
            yield f'{len(broken)} files of {name}_dataloader are links to nothing, and left out, such as `{broken[0]}`'
    images = {name: {path for path in (dataset.get_data_info(index).get('img_path')
                                       for index in range(min(len(dataset), _MOST))) if isinstance(path, str)}
              for name, dataset in datasets.items() if hasattr(dataset, 'get_data_info')}
    both = images.get('train', set()) & images.get('val', set())
    if both:
        yield (f'{len(both)} images of train_dataloader are in val_dataloader as well, such as `{min(both)}`: the '
               'metrics do not show how the model generalizes')
    train = datasets.get('train')
    known = getattr(train, 'metainfo', None) or {}
    classes = () if 'stuff_classes' in known else known.get('classes') or ()  # stuff has no boxes
    missing, begin = dict(enumerate(classes)), time.monotonic()
    for index in range(len(train)) if 'train' in images and missing else ():
        info = train.get_data_info(index)
        if 'instances' not in info or time.monotonic() - begin > _SECONDS:
            return
        for instance in info['instances']:
            missing.pop(instance.get('bbox_label'), None)
        if not missing:
            return
    if 'train' in images and 0 < len(missing) < len(classes):
        yield (f'{len(missing)} of {len(classes)} classes have no object in train_dataloader: '
               f'{", ".join(map(str, list(missing.values())[:3]))}{", ..." * (len(missing) > 3)}')
