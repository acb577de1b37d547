"""Run a short validation before training, so that errors in it are found before the first epoch."""
import copy
import os.path as osp
import time
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import HistoryBuffer
from mmengine.runner import EpochBasedTrainLoop, LogProcessor, TestLoop, ValLoop, autocast, loops
from mmengine.structures import InstanceData
from torch.utils.data import SequentialSampler

from mmrev.datasets.checks import (check_apart, check_boxes, check_classes, check_files, check_labels, check_mask,
                                   check_normalization, check_normalized_alike, check_order, check_scale,
                                   shifted_labels, unusual, without_objects)
from mmrev.datasets.coco import renumber_zero
from mmrev.problems import ProblemError, closest, phase
from mmrev.registry import HOOKS
from mmrev.side_effects import random_states_kept, try_writing, try_writing_to, unnoticed

from .remarks import of_data, remarks
from .sanity_checks import check_fields, check_metrics, check_sliding, of_another_host

_SECONDS = 1.  # for which samples of a data set are read
_TINY = 8  # pixels; smaller images have no content


@HOOKS.register_module()
class SanityHook(Hook):
    """Read some samples of each data set, and validate two samples with model, metrics and visualization.

    Random states, weights and log stay unchanged.

    Raises:
        ProblemError: If anything fails, if classes or labels of the data sets do not match each other or the model, or
            if a hook or schedule monitors a metric that does not exist.
    """

    priority = 'LOWEST'
    _trained: Sequence[str] = ()  # the classes of the checkpoint, in their order

    def after_load_checkpoint(self, runner, checkpoint) -> None:
        """Remember the classes of the training."""
        self._trained = ((checkpoint.get('meta') or {}).get('dataset_meta') or {}).get('classes') or ()

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
        check_hooks(runner)
        check_sliding(runner.model)
        with unnoticed():
            datasets = {name: loop.dataloader.dataset for name, loop in _loops(runner)}
            check_classes(datasets, runner.model)
            check_apart(datasets)
            check_normalized_alike({name: [step for _, steps in _pipelines(dataset) for step in steps]
                                    for name, dataset in datasets.items()})
            warnings = [line for name, loop in _loops(runner) for line in _read(name, loop.dataloader, runner.model)]
            warnings += [*remarks(runner), *of_data(datasets)]
            if isinstance(runner._val_loop, ValLoop):
                check_metrics(runner.val_loop.evaluator, runner.model)
                metrics = validate(runner, runner._val_loop)
                check_monitored(runner, metrics)
        runner.model.train(training)
        for line in warnings:
            runner.logger.warning(line)
        runner.logger.info(f'SanityHook: data, metrics and visualization work ({time.monotonic() - begin:.1f} s)')

    def before_test(self, runner) -> None:
        """Require that the test ends, and read samples."""
        if isinstance(runner.test_loop, TestLoop):
            check_sampler(runner.test_loop.dataloader, 'test')
            check_outputs(runner.test_loop.evaluator)
            check_sliding(runner.model)
            with unnoticed():
                datasets = dict(test=runner.test_loop.dataloader.dataset)
                check_classes(datasets, runner.model)
                check_trained(datasets['test'], self._trained)
                check_apart(datasets)
                warnings = _read('test', runner.test_loop.dataloader, runner.model)
            for line in warnings:
                runner.logger.warning(line)


def check_trained(dataset: Any, trained: Sequence[str]) -> None:
    """Require that a data set numbers the classes of a training as that did."""
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes') or ()
    if list(classes) != list(trained) and sorted(map(str, classes)) == sorted(map(str, trained)):
        raise ProblemError('the classes of test_dataloader have another order than those of the checkpoint',
                           f'Set metainfo=dict(classes={tuple(trained)!r}) for the data set')


def check_sampler(loader: Any, split: str) -> None:
    """Require that an epoch of a dataloader has a sample, and ends."""
    indices = getattr(loader.batch_sampler, 'sampler', None)
    sampler = type(indices).__name__
    if 'Infinite' in sampler:
        other = ", or train_cfg.type='IterBasedTrainLoop'" * (split == 'train')
        raise ProblemError(f'{sampler} never ends the first epoch of {split}_dataloader',
                           f"Set {split}_dataloader.sampler.type='DefaultSampler'{other}")
    if type(indices) is SequentialSampler and (split == 'train' or get_world_size() > 1):  # the default of torch
        raise ProblemError(f'{split}_dataloader has no `sampler`: each process would read all samples in their order',
                           f"Add sampler=dict(type='DefaultSampler', shuffle={split == 'train'})")
    with random_states_kept():
        if indices is not None and next(iter(indices), None) is None:
            raise ProblemError(f'{sampler} yields no sample for an epoch of {split}_dataloader',
                               f'Fix the arguments of {split}_dataloader.sampler')


def check_outputs(evaluator: Any) -> None:
    """Require that metrics can write their files, which they do after the last batch; renumber annotation 0 of COCO."""
    for metric in evaluator.metrics:
        renumber_zero(metric)
        for key, try_it in (('outfile_prefix', lambda file: try_writing(osp.dirname(file))),
                            ('out_file_path', try_writing_to)):
            file = getattr(metric, key, None)
            if isinstance(file, str) and '://' not in file:
                with phase(f'writing `{file}` of {type(metric).__name__}', f'Fix its `{key}`'):
                    try_it(file)


def check_log(runner) -> None:
    """Require that the log processor can compute the statistics that it is to log."""
    processor = runner.log_processor
    with phase('log_processor.custom_cfg', 'Fix it; method_name is mean, min, max, current or a method of your own'):
        for entry in processor._parse_windows_size(runner, 0) if isinstance(processor, LogProcessor) else ():
            HistoryBuffer([1.], [1]).statistics(
                **{key: value for key, value in entry.items() if key not in ('data_src', 'log_name')})


def check_hooks(runner) -> None:
    """Require a validation for what monitors one, at most one average of the weights, and weights to publish."""
    if isinstance(runner._val_loop, TestLoop):
        raise ProblemError('`val_cfg.type` is TestLoop, which tests', 'Leave it out, or write ValLoop')
    if sum(isinstance(hook, EMAHook) for hook in runner.hooks) > 1:
        raise ProblemError('there are several EMAHooks, which would average the averages of each other',
                           'Leave one of them in custom_hooks')
    if not any('RuntimeInfo' in type(hook).__name__ for hook in runner.hooks):
        raise ProblemError('there is no RuntimeInfoHook, which keeps the losses for the log and FiniteLossHook',
                           'Leave default_hooks.runtime_info as it is')
    for hook in runner.hooks:
        if type(hook).__name__.endswith('VisualizationHook') and not getattr(hook, 'interval', 1) > 0:
            raise ProblemError(f'`interval` of {type(hook).__name__} is {hook.interval}', 'Set it to a number from 1 '
                               'in default_hooks.visualization')
        if getattr(hook, 'published_keys', None) and 'state_dict' not in hook.published_keys:
            raise ProblemError(f'`published_keys` of {type(hook).__name__} is {hook.published_keys}, which lacks the '
                               'weights', "Add 'state_dict' to it")
    schedules = runner.param_schedulers
    for watcher in [*runner.hooks, *(schedules if isinstance(schedules, list) else ())]:
        watched = getattr(watcher, 'save_best', None) or getattr(watcher, 'monitor', None)
        if watched and runner._val_loop is None:
            key = 'save_best' if getattr(watcher, 'save_best', None) else 'monitor'
            raise ProblemError(f'{type(watcher).__name__} has {key}={watched!r}, and there is no validation',
                               f'Add val_dataloader, val_cfg and val_evaluator, or leave out {key}')


def _loops(runner) -> Iterator[Tuple[str, Any]]:
    for name, loop in (('train', runner._train_loop), ('val', runner._val_loop)):
        if hasattr(loop, 'dataloader') and hasattr(loop.dataloader.dataset, '__len__'):
            yield name, loop


def _read(name: str, loader: Any, model: Any) -> List[str]:
    """Read the first batch and then, for a second, samples spread over the data set. One of a test may have no objects.

    Returns:
        Warnings: which image has another size than its annotation says, such as one that was resized without its
        boxes; that masks hold no class; what is unusual.
    """
    dataset, collate, model = loader.dataset, loader.collate_fn, getattr(model, 'module', model)
    if name != 'test' and hasattr(dataset, 'get_data_info') and all(
            all(one.get('ignore_flag') for one in dataset.get_data_info(index).get('instances', [{}]))
            for index in range(len(dataset))):
        raise ProblemError(f'none of the {len(dataset)} samples of {name}_dataloader has an annotated object',
                           'Compare metainfo.classes with the names in the annotations, the boxes with the images')
    check_files(name, dataset)
    for _, steps in _pipelines(dataset):
        check_order(name, steps)
        check_normalization(name, steps, model)
    if any(hasattr(step, 'results_cache') for _, steps in _pipelines(dataset) for step in steps):
        return []  # a transform would cache these samples
    begin, other, labels, read, smallest, plain = time.monotonic(), '', set(), set(), None, True
    with phase(f'reading the first batch of {name}_dataloader'):
        samples = [dataset[index] for index in range(min(loader.batch_size or 1, len(dataset)))]
        check_fields(name, samples[0], model)
        check_scale(name, samples[0], model)
        collate(samples)
        for index in np.linspace(0, len(dataset) - 1, min(64, len(dataset))).astype(int):
            if time.monotonic() - begin > _SECONDS:
                break
            sample = dataset[int(index)]
            read.add(int(index))
            labels |= check_mask(f'sample {index} of {name}_dataloader', sample, model)
            check_labels(f'sample {index} of {name}_dataloader', sample, model)
            info = dataset.get_data_info(int(index)) if hasattr(dataset, 'get_data_info') else {}
            other = other or check_boxes(info, sample)
            smallest = sample if smallest is None or _pixels(sample) < _pixels(smallest) else smallest
            image = sample.get('inputs') if isinstance(sample, dict) else None
            plain = plain and torch.is_tensor(image) and image.numel() > 0 and bool((image == image.flatten()[0]).all())
    if name == 'train' and smallest is not None and hasattr(model, 'data_preprocessor'):
        check_last_batch(loader, smallest, model)
    useless = without_objects(name, labels, model)
    if 'ignored' in useless and len(read) == len(dataset):
        raise ProblemError(useless, 'Write the numbers of the classes into the masks')
    image = smallest.get('inputs') if isinstance(smallest, dict) else None
    side = min(getattr(image, 'shape', ())[-2:], default=_TINY) if getattr(image, 'ndim', 0) > 2 else _TINY
    return [*filter(None, (other, useless, shifted_labels(name, dataset, labels))),
            *[f'all {len(read)} images of {name}_dataloader that were read are of a single color'
              ] * (plain and len(read) > 1),
            *[f'an image of {name}_dataloader has a side of {side} pixels after its transforms'] * (side < _TINY),
            *dict.fromkeys(line for inner, _ in _pipelines(dataset) for line in unusual(name, inner, model))]


def _pixels(sample: Any) -> int:
    """The number of values of an image."""
    return getattr(sample.get('inputs') if isinstance(sample, dict) else None, 'numel', int)()


@torch.no_grad()
def check_last_batch(loader: Any, sample: Any, model: Any) -> None:
    """Require that batch norm can normalize the last batch of an epoch, if that is this sample alone."""
    batches = loader.batch_sampler
    sampler, size = getattr(batches, 'sampler', ()), getattr(batches, 'batch_size', 1)
    if (size == 1 or len(sampler) % size != 1 or getattr(batches, 'drop_last', False) or get_world_size() > 1
            or 'Infinite' in type(sampler).__name__):
        return
    before = copy.deepcopy(dict(model.named_buffers()))
    model.train()
    try:
        model._run_forward(model.data_preprocessor(loader.collate_fn([sample]), True), mode='loss')
    except Exception as error:  # the first iteration would raise the others
        if 'Expected more than 1 value per channel' in str(error):
            raise ProblemError(f'{len(sampler)} samples in batches of {size} leave a single one for the last '
                               'batch, and batch norm needs several values',
                               'Set train_dataloader.drop_last=True, or another batch_size') from error
    finally:
        for name, buffer in model.named_buffers():
            buffer.copy_(before.get(name, buffer))


def _pipelines(dataset: Any) -> Iterator[Tuple[Any, Sequence[Any]]]:
    """A data set and those inside it, each with its transforms."""
    pipeline = getattr(dataset, 'pipeline', None)
    yield dataset, getattr(pipeline, 'transforms', None) or (pipeline if isinstance(pipeline, (list, tuple)) else ())
    for inner in [getattr(dataset, 'dataset', None), *(getattr(dataset, 'datasets', None) or ())]:
        if inner is not None:
            yield from _pipelines(inner)


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
        outputs, losses = loops._update_losses(outputs, {})
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
        try:
            loop.evaluator.process(data_samples=outputs, data_batch=batch)
        except ProblemError as error:
            error.fix = error.fix or of_another_host(loop.evaluator, runner.model)
            raise
        if any(getattr(metric, key, None) for metric in loop.evaluator.metrics
               for key in ('out_file_path', 'outfile_prefix')):
            for metric in loop.evaluator.metrics:
                metric.results.clear()
            return {}
        return {**loop.evaluator.evaluate(samples * get_world_size()), **loops._parse_losses(losses, 'val')}


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
        for name in (*saves, monitor):
            if isinstance(name, str) and name != 'auto' and name not in metrics:
                raise ProblemError(f'{type(watcher).__name__} monitors `{name}`, but val_evaluator has no such '
                                   'metric', f'{closest(name, metrics)}There are {", ".join(list(metrics)[:6])}')
