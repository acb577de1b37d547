"""Whether the classes of config, annotations and model agree: the usual mistake with data of one's own.

mmdet notices late and obscurely: an empty data set fails in ``np.concatenate``, a head with too many classes trains an
epoch and then fails in the evaluation.
"""
import json
import mmap
import os.path as osp
from typing import Any, Iterator, Optional, Sequence, Tuple

from mmengine.registry import DATASETS
from torch import nn

from mmrev.cli.arguments import registry_class
from mmrev.problems import ProblemError


def check_classes(dataset: Any, path: str, model: nn.Module, file: str) -> None:
    """Check every data set with COCO-format annotations below a dataloader's ``dataset``.

    Args:
        dataset: Its config.
        path: Where that is in the config.
        model: The model, built.
        file: The config, for the message.
    """
    for entry, where in _coco_sets(dataset, path):
        names = category_names(osp.join(entry.get('data_root') or '', entry['ann_file']))
        classes = _classes(entry)
        if names is None or classes is None:
            continue
        if isinstance(classes, str):
            raise ProblemError(f'`{where}.metainfo.classes` is the text `{classes}`, not a tuple of names',
                            f"In {file}, one class is metainfo=dict(classes=('{classes}', ))")
        if not set(classes) & set(names):
            raise ProblemError(f'`{entry["ann_file"]}` has none of the classes {_listed(classes)} ({where}): it has '
                            f'{_listed(names)}', f'Set in {file} metainfo=dict(classes={tuple(names[:5])!r}) for each '
                            'data set, and num_classes of the heads')
        for name, head in model.named_modules():
            if name.split('.')[-1] == 'bbox_head' and getattr(head, 'num_classes', len(classes)) != len(classes):
                raise ProblemError(f'model.{name} has num_classes={head.num_classes}, but {where} has {len(classes)} '
                                f'classes', f'Set num_classes={len(classes)} there in {file}, or metainfo.classes of '
                                'the data set')


def category_names(file: str) -> Optional[Sequence[str]]:
    """The names in ``categories`` of a COCO-format file, however large it is; `None` if it has none to be read."""
    if not file.endswith('.json') or not osp.isfile(file):
        return None
    with open(file, 'rb') as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as text:
        begin = text.find(b'[', max(0, text.rfind(b'"categories"')))
        part = text[begin:begin + 2 ** 21].decode(errors='replace')
    try:
        return [category['name'] for category in json.JSONDecoder().raw_decode(part)[0]]
    except (ValueError, TypeError, KeyError):
        return None


def _coco_sets(node: Any, path: str) -> Iterator[Tuple[dict, str]]:
    """The configs of data sets with an annotation file, in whatever they are wrapped."""
    if isinstance(node, dict):
        if isinstance(node.get('ann_file'), str) and node.get('type'):
            yield node, path
        children = [(key, value) for key, value in node.items() if key != 'pipeline']
    else:
        children = enumerate(node) if isinstance(node, (list, tuple)) else []
    for key, value in children:
        yield from _coco_sets(value, f'{path}.{key}')


def _classes(entry: dict) -> Any:
    """The class names that a data set will have: those of its config, else those of its class."""
    built = registry_class(entry['type'], DATASETS, entry.get('_scope_'))
    return (entry.get('metainfo') or {}).get('classes', getattr(built, 'METAINFO', {}).get('classes'))


def _listed(names: Sequence[str]) -> str:
    return ', '.join(names[:5]) + (f', ... ({len(names)})' if len(names) > 5 else '')
