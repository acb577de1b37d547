"""What samples, metrics and the test of a model must have, for models of mmdet, mmpretrain and mmseg."""
from typing import Any

from mmengine.structures import BaseDataElement

from mmrev.problems import ProblemError

_PACKING = dict(mmdet='PackDetInputs', mmpretrain='PackInputs', mmseg='PackSegInputs')  # last steps of the pipelines


def check_metrics(evaluator: Any, model: Any) -> None:
    """Require that metrics have lists where they read some, and an accuracy no more classes than a classifier."""
    most = getattr(getattr(getattr(model, 'module', model), 'head', None), 'num_classes', None)
    for metric in evaluator.metrics:
        for key in ('iou_thrs', 'proposal_nums', 'metric_items'):
            value = getattr(metric, key, None)
            if isinstance(value, (int, float, str)) or isinstance(value, (list, tuple)) and not value:
                raise ProblemError(f'evaluating with {type(metric).__name__}: its `{key}` is {value!r}',
                                   f'Write a list of one or several in val_evaluator, or leave {key} out')
        topk = getattr(metric, 'topk', None)
        larger = [number for number in topk if isinstance(number, int) and isinstance(most, int) and number > most
                  ] if isinstance(topk, (list, tuple)) else []
        if larger:
            raise ProblemError(f'evaluating with {type(metric).__name__}: its `topk` holds {larger[0]}, and model.head '
                               f'has {most} classes', f'Set topk of val_evaluator to numbers from 1 to {most}')


def check_sliding(model: Any) -> None:
    """Require that a segmentor which slides over an image has the size of its window and the step."""
    config = getattr(getattr(model, 'module', model), 'test_cfg', None)
    for key in ('crop_size', 'stride') if isinstance(config, dict) and config.get('mode') == 'slide' else ():
        if not isinstance(config.get(key), (list, tuple)) or len(config[key]) != 2:
            wrong = f'`{key}={config[key]!r}`, no pair' if key in config else f'no `{key}`'
            raise ProblemError(f"`model.test_cfg` has mode='slide' and {wrong}", 'Write crop_size=(512, 512) and '
                               "stride=(341, 341), in pixels, or mode='whole'")
    if isinstance(config, dict) and config.get('mode') == 'slide' and any(
            step > side for step, side in zip(config['stride'], config['crop_size'])):
        raise ProblemError(f'`model.test_cfg` slides by stride={config["stride"]} a window of crop_size='
                           f'{config["crop_size"]}, which would leave gaps', 'Choose a stride below the crop_size')


def check_fields(name: str, sample: Any, model: Any) -> None:
    """Require that a sample has what models of mmdet, mmpretrain and mmseg read, in training its annotations too.

    Args:
        name: Split of the data set, for the message.
        sample: What its pipeline returns.
        model: The model, without a wrapper.
    """
    host = type(getattr(model, 'data_preprocessor', None)).__module__.split('.')[0]
    if not isinstance(sample, dict) or host not in _PACKING:
        return
    if 'inputs' not in sample:
        raise ProblemError(f'a sample of {name}_dataloader has no `inputs`, but {", ".join(list(sample)[:4])}',
                           f'End {name}_dataloader.dataset.pipeline with {_PACKING[host]}')
    truth = sample.get('data_samples')
    wanted = [('gt_instances', 'bboxes', 'with_bbox'), ('gt_instances', 'labels', 'with_bbox'),
              ('gt_instances', 'masks', 'with_mask')] if host == 'mmdet' else [('gt_sem_seg', 'data', 'decode_head')]
    for field, values, part in wanted if isinstance(truth, BaseDataElement) and name == 'train' else ():
        if getattr(model, part, False) and not hasattr(getattr(truth, field, None), values):
            flag = dict(bboxes='with_bbox=True', labels='with_label=True', masks='with_mask=True').get(values, '')
            raise ProblemError(f'a sample of {name}_dataloader has no `{field}.{values}`, which {type(model).__name__} '
                               'needs', f'Add LoadAnnotations to {name}_dataloader.dataset.pipeline'
                               f'{f", with {flag}" * bool(flag)}')


def of_another_host(evaluator: Any, model: Any) -> str:
    """Which metric is of another library than the model, as a fix; or ''."""
    host = type(getattr(getattr(model, 'module', model), 'data_preprocessor', None)).__module__.split('.')[0]
    for metric in evaluator.metrics if host in _PACKING else ():
        own = type(metric).__module__.split('.')[0]
        if own in _PACKING and own != host:
            return f'{type(metric).__name__} is a metric of {own}: set val_evaluator to one of {host}, as the model is'
    return ''
