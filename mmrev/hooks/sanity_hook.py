"""Run a short validation before training, so that errors in it are found before the first epoch."""
import os.path as osp
import time
from collections import Counter
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

import numpy as np
import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer
from mmengine.runner import EpochBasedTrainLoop, LogProcessor, TestLoop, ValLoop, autocast
from mmengine.structures import InstanceData

from mmrev.problems import ProblemError, closest, phase
from mmrev.registry import HOOKS
from mmrev.side_effects import random_states_kept, try_writing, unnoticed

_SECONDS = 1.  # for which samples of a data set are read


@HOOKS.register_module()
class SanityHook(Hook):
    """Read some samples of each data set, and validate two samples with model, metrics and visualization.

    Random states, weights and log stay unchanged.

    Raises:
        ProblemError: If anything fails, if classes or labels of the data sets do not match each other or the model, or
            if a hook or schedule monitors a metric that does not exist.
    """

    priority = 'LOWEST'

    def before_train(self, runner) -> None:
        """Run the checks."""
        begin = time.monotonic()
        training = runner.model.training
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            check_sampler(runner.train_loop.dataloader, 'train')
        if isinstance(runner._val_loop, ValLoop):
            check_sampler(runner.val_loop.dataloader, 'val')
            check_outputs(runner.val_loop.evaluator)
        check_log(runner)
        with unnoticed():
            check_classes({name: loop.dataloader.dataset for name, loop in _loops(runner)}, runner.model)
            warnings = [line for name, loop in _loops(runner) for line in _read(name, loop.dataloader, runner.model)]
            if isinstance(runner._val_loop, ValLoop):
                metrics = validate(runner, runner._val_loop)
                check_monitored(runner, metrics)
        runner.model.train(training)
        for line in warnings:
            runner.logger.warning(line)
        runner.logger.info(f'SanityHook: data, metrics and visualization work ({time.monotonic() - begin:.1f} s)')

    def before_test(self, runner) -> None:
        """Require that the test ends."""
        if isinstance(runner.test_loop, TestLoop):
            check_sampler(runner.test_loop.dataloader, 'test')
            check_files('test', runner.test_loop.dataloader.dataset)
            check_outputs(runner.test_loop.evaluator)


def check_sampler(loader: Any, split: str) -> None:
    """Require that an epoch of a dataloader has a sample, and ends."""
    indices = getattr(loader.batch_sampler, 'sampler', None)
    sampler = type(indices).__name__
    if 'Infinite' in sampler:
        other = ", or train_cfg.type='IterBasedTrainLoop'" * (split == 'train')
        raise ProblemError(f'{sampler} never ends the first epoch of {split}_dataloader',
                           f"Set {split}_dataloader.sampler.type='DefaultSampler'{other}")
    with random_states_kept():
        if indices is not None and next(iter(indices), None) is None:
            raise ProblemError(f'{sampler} yields no sample for an epoch of {split}_dataloader',
                               f'Fix the arguments of {split}_dataloader.sampler')


def check_files(name: str, dataset: Any) -> None:
    """Require that images which exist are regular files, for a second: reading a pipe would wait forever."""
    begin = time.monotonic()
    for index in range(len(dataset) if hasattr(dataset, 'get_data_info') else 0):
        file = dataset.get_data_info(index).get('img_path')
        if isinstance(file, str) and osp.exists(file) and not osp.isfile(file):
            raise ProblemError(f'reading sample {index} of {name}_dataloader: `{file}` is no regular file',
                               'Fix or remove that sample')
        if time.monotonic() - begin > _SECONDS:
            break


def check_outputs(evaluator: Any) -> None:
    """Require that metrics can write the files that they are to write, which they do after the last batch."""
    for metric in evaluator.metrics:
        prefix = getattr(metric, 'outfile_prefix', None)
        if isinstance(prefix, str) and '://' not in prefix:
            with phase(f'writing `{prefix}` of {type(metric).__name__}', 'Fix its `outfile_prefix`'):
                try_writing(osp.dirname(prefix))


def check_log(runner) -> None:
    """Require that the log processor can compute the statistics that it is to log."""
    processor = runner.log_processor
    with phase('log_processor.custom_cfg', 'Fix it; method_name is mean, min, max, current or a method of your own'):
        for entry in processor._parse_windows_size(runner, 0) if isinstance(processor, LogProcessor) else ():
            HistoryBuffer([1.], [1]).statistics(
                **{key: value for key, value in entry.items() if key not in ('data_src', 'log_name')})


def _loops(runner) -> Iterator[Tuple[str, Any]]:
    for name, loop in (('train', runner._train_loop), ('val', runner._val_loop)):
        if hasattr(loop, 'dataloader') and hasattr(loop.dataloader.dataset, '__len__'):
            yield name, loop


def check_classes(datasets: Dict[str, Any], model: Any = None) -> None:
    """Require that all data sets have the same unique classes in the same order, as many as a classifier's head.

    The head of a segmentor may have more: its other classes just never occur.
    """
    model = getattr(model, 'module', model)
    wanted = getattr(getattr(model, 'head', None), 'num_classes', None)
    first: Tuple[str, Any] = ('', None)
    for name, dataset in datasets.items():
        classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
        if not isinstance(classes, (list, tuple)):
            continue
        own = getattr(dataset, 'METAINFO', {}).get('classes') != classes  # ImageNet's has two cranes
        twice = [name for name, number in Counter(map(str, classes)).items() if number > 1]
        if own and twice:
            raise ProblemError(f'{name}_dataloader.dataset has the class `{twice[0]}` twice', 'Name each class once')
        if first[1] is not None and list(first[1]) != list(classes):
            here, there = ({*map(str, classes)} - {*map(str, first[1])}, {*map(str, first[1])} - {*map(str, classes)})
            which = [f'only {split} has {", ".join(sorted(only)[:3])}' for split, only in
                     ((name, here), (first[0], there)) if only] or ['their order differs']
            raise ProblemError(f'the classes of {first[0]}_dataloader and {name}_dataloader differ: {"; ".join(which)}',
                               'Their labels would not agree: add the missing folders, or set the same '
                               'metainfo=dict(classes=...) for both')
        if wanted not in (None, len(classes)):
            raise ProblemError(f'model.head has num_classes={wanted}, {name}_dataloader has {len(classes)} classes: '
                               f'{", ".join(map(str, classes[:3]))}{", ..." * (len(classes) > 3)}',
                               f'Add the missing folders, or set model.head.num_classes={len(classes)}')
        most, unlabelled = _most_classes(getattr(model, 'decode_head', None)), getattr(dataset, 'reduce_zero_label', 0)
        if most is not None and most < len(classes) - bool(unlabelled):
            raise ProblemError(f'model.decode_head has num_classes={most}, {name}_dataloader has {len(classes)} '
                               'classes', f'Set model.decode_head.num_classes={len(classes)}')
        first = (name, classes)


def _most_classes(head: Any) -> Optional[int]:
    """The number of classes of a head; a binary one, with a single channel, has two."""
    number = getattr(head, 'num_classes', None)
    return (max(number, 2) if getattr(head, 'out_channels', None) == 1 else number) if type(number) is int else None


def check_labels(where: str, sample: Any, model: Any) -> None:
    """Require that the head of a classifier or segmentor has the labels of a sample."""
    truth = sample.get('data_samples') if isinstance(sample, dict) else None
    for field, part in (('gt_label', 'head'), ('gt_sem_seg', 'decode_head')):
        head, labels = getattr(model, part, None), getattr(getattr(truth, field, None), 'data', None)
        most = _most_classes(head)
        if most is None or not torch.is_tensor(labels):
            continue
        wrong = labels[(labels >= most) & (labels != getattr(head, 'ignore_index', -1))]
        if len(wrong):
            file = truth.metainfo.get('seg_map_path') or truth.metainfo.get('img_path')
            raise ProblemError(f'{where} (`{file}`) has the label {int(wrong.max())}, and model.{part} has num_classes='
                               f'{head.num_classes}', 'Fix it; labels count from 0, and unlabelled pixels of a mask '
                               'are 255')


def check_mask(where: str, sample: Any, model: Any) -> Set[int]:
    """Require that a segmentor's mask has one channel and the size of its image; return the labels in it."""
    truth = sample.get('data_samples') if isinstance(sample, dict) else None
    labels = getattr(getattr(truth, 'gt_sem_seg', None), 'data', None)
    if not hasattr(model, 'decode_head') or not torch.is_tensor(labels):
        return set()
    # Before a validation the image is resized, and the mask is not.
    sizes = [tuple(sample['inputs'].shape[-2:]), tuple(truth.metainfo.get('ori_shape', ())[:2])]
    if labels.ndim != 3 or len(labels) != 1 or labels.shape[1:] not in sizes:
        raise ProblemError(f'{where}: the mask `{truth.metainfo.get("seg_map_path")}` has shape '
                           f'{tuple(labels.shape)}, and its image {" or ".join(map(str, sizes))}',
                           'Masks have one channel, which holds the numbers of the classes, and the size of the image')
    return set(labels.unique().tolist())


def without_objects(name: str, labels: Set[int], model: Any) -> str:
    """What is wrong with masks that hold these labels alone, such as 255 for objects, which is ignored; or ''."""
    ignored = getattr(getattr(model, 'decode_head', None), 'ignore_index', None)
    return (f'the masks of {name}_dataloader hold only the labels {sorted(labels)}, and {ignored} is ignored: the '
            f'labels of objects are 1 and above') if ignored in labels and labels <= {0, ignored} else ''


def _read(name: str, loader: Any, model: Any) -> List[str]:
    """Read the first batch and then, for a second, samples spread over the data set.

    Returns:
        Warnings: which image has another size than its annotation says, such as one that was resized without its
        boxes; that masks hold no class.
    """
    dataset, collate, model = loader.dataset, loader.collate_fn, getattr(model, 'module', model)
    if hasattr(dataset, 'get_data_info') and all(
            all(one.get('ignore_flag') for one in dataset.get_data_info(index).get('instances', [{}]))
            for index in range(len(dataset))):
        raise ProblemError(f'none of the {len(dataset)} samples of {name}_dataloader has an annotated object',
                           'Compare metainfo.classes with the names in the annotations, the boxes with the images')
    check_files(name, dataset)
    if any(hasattr(step, 'results_cache') for step in _transforms(dataset)):
        return []  # a transform would cache these samples
    begin, other, labels = time.monotonic(), '', set()
    with phase(f'reading the first batch of {name}_dataloader'):
        collate([dataset[index] for index in range(min(loader.batch_size or 1, len(dataset)))])
        for index in np.linspace(0, len(dataset) - 1, min(64, len(dataset))).astype(int):
            if time.monotonic() - begin > _SECONDS:
                break
            sample = dataset[int(index)]
            labels |= check_mask(f'sample {index} of {name}_dataloader', sample, model)
            check_labels(f'sample {index} of {name}_dataloader', sample, model)
            info = dataset.get_data_info(int(index)) if hasattr(dataset, 'get_data_info') else {}
            stated = (info.get('height'), info.get('width'))
            shape = getattr(sample.get('data_samples') if isinstance(sample, dict) else None, 'ori_shape', None)
            if shape is not None and None not in stated and tuple(shape[:2]) != stated:
                other = other or (f'`{info.get("img_path")}` has {shape[1]}x{shape[0]} pixels, and its annotation says '
                                  f'{stated[1]}x{stated[0]}: do its boxes fit?')
    return list(filter(None, (other, without_objects(name, labels, model))))


def _transforms(dataset: Any) -> Iterator[Any]:
    """The transforms of a data set and of the data sets inside it."""
    yield from getattr(getattr(dataset, 'pipeline', None), 'transforms', None) or ()
    pipeline = getattr(dataset, 'pipeline', None)
    yield from pipeline if isinstance(pipeline, (list, tuple)) else ()
    for inner in [getattr(dataset, 'dataset', None), *(getattr(dataset, 'datasets', None) or ())]:
        if inner is not None:
            yield from _transforms(inner)


@torch.no_grad()
def validate(runner, loop: ValLoop, samples: int = 2) -> Dict[str, Any]:
    """Validate samples with model, metrics and visualization; return the metrics, or {} if they would write files."""
    dataset = loop.dataloader.dataset
    with phase('validating two samples'):
        indices = [(samples * get_rank() + index) % len(dataset) for index in range(samples)]
        batch = loop.dataloader.collate_fn([dataset[index] for index in indices])
        runner.model.eval()
        with autocast(enabled=loop.fp16):
            outputs: List[Any] = runner.model.val_step(batch)
        for output in outputs:
            _invent_prediction(output)
        visualizer = runner.visualizer
        backends, visualizer._vis_backends = visualizer._vis_backends, {}
        try:
            for hook in runner.hooks:
                if type(hook).__name__.endswith('VisualizationHook'):
                    with phase(f'drawing with {type(hook).__name__}'):
                        hook.after_val_iter(runner, 0, batch, outputs)
        finally:
            visualizer._vis_backends = backends
        loop.evaluator.process(data_samples=outputs, data_batch=batch)
        if any(getattr(metric, key, None) for metric in loop.evaluator.metrics
               for key in ('out_file_path', 'outfile_prefix')):
            for metric in loop.evaluator.metrics:
                metric.results.clear()
            return {}
        return loop.evaluator.evaluate(samples * get_world_size())


def _invent_prediction(sample: Any) -> None:
    """Add a box if an untrained detector finds none; without one, metrics skip most of their work."""
    found: Optional[InstanceData] = getattr(sample, 'pred_instances', None)
    known = {'bboxes', 'labels', 'scores', 'masks'}
    if isinstance(found, InstanceData) and not len(found) and {*found.keys()} <= known:
        height, width = sample.ori_shape[:2]
        made: Dict[str, Any] = dict(bboxes=found.bboxes.new_tensor([[0, 0, width, height]]), scores=torch.ones(1),
                                    labels=torch.zeros(1, dtype=torch.long))
        if 'masks' in found:
            made['masks'] = torch.ones(1, height, width, dtype=torch.bool)
        sample.pred_instances = InstanceData(**{key: made[key].to(found.bboxes.device) for key in found.keys()})


def check_monitored(runner, metrics: Dict[str, Any]) -> None:
    """Require that the metrics which hooks and schedules monitor exist."""
    schedules = runner.param_schedulers
    watching = [*runner.hooks, *(schedules if isinstance(schedules, list) else ())]
    for watcher in watching if metrics else ():
        saves, monitor = getattr(watcher, 'key_indicators', None) or (), getattr(watcher, 'monitor', None)
        for name in [*saves, *([] if 'loss' in str(monitor) else [monitor])]:
            if isinstance(name, str) and name != 'auto' and name not in metrics:
                raise ProblemError(f'{type(watcher).__name__} monitors `{name}`, but val_evaluator has no such '
                                   'metric', f'{closest(name, metrics)}There are {", ".join(list(metrics)[:6])}')
