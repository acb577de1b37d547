"""Checks of built data sets and of their samples: files, classes, labels, masks."""
import os.path as osp
import time
from collections import Counter
from typing import Any, Dict, Optional, Set, Tuple

import torch

from mmrev.problems import ProblemError

_SECONDS = 1.  # for which the files of a data set are looked at


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
