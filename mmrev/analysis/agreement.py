"""Numbers of a model that must agree: levels, strides, numbers of a box, classes and weights of losses."""
from typing import Any, Dict, Iterator, List, Sequence, Tuple

from torch import nn

Shapes = Dict[str, List[Tuple[int, ...]]]  # of the outputs of each part, without the batch


def disagreements(model: nn.Module, given: Shapes, size: int) -> Iterator[Tuple[str, str]]:
    """Compare the heads of a model with the levels that they get, and weights of classes with the classes.

    Args:
        model: A model of mmdet, mmpretrain or mmseg.
        given: Outputs of the parts for an image, as far as they are known.
        size: Height and width of that image.

    Yields:
        What is wrong, and the path of the entry of the config, such as ``model.decode_head.in_index``.
    """
    source = 'neck' if 'neck' in given else 'backbone'
    levels = (given.get(source) or []) if source == 'neck' or getattr(model, 'neck', None) is None else []
    for name, head in model.named_children() if levels else ():
        if name in ('rpn_head', 'bbox_head'):
            yield from _strides(f'model.{name}', head, levels, size, source)
        for place, part in [(name, head)] if not isinstance(head, nn.ModuleList) else [
                (f'{name}.{index}', part) for index, part in enumerate(head)]:
            index = getattr(part, 'in_index', None)
            most = max(index, default=0) if isinstance(index, (list, tuple)) else index
            if isinstance(most, int) and most >= len(levels):
                yield (f'`model.{place}.in_index` is {index}, and model.{source} gives {len(levels)} levels, from 0 to '
                       f'{len(levels) - 1}', f'model.{place}.in_index')
    for name, part in model.named_modules():
        style = getattr(part, 'style', 'pytorch') if type(part).__name__.startswith('Res') else 'pytorch'
        if style not in ('pytorch', 'caffe'):  # where the stride of a bottleneck is; anything else would be caffe
            yield f"`model.{name}.style` is {style!r}, not 'pytorch' or 'caffe'", f'model.{name}.style'
        coder = getattr(part, 'bbox_coder', None)
        for key in ('means', 'stds'):
            numbers, wanted = getattr(coder, key, None), getattr(coder, 'encode_size', None)
            if isinstance(numbers, (list, tuple)) and wanted and len(numbers) not in (1, wanted):
                path = f'model.{name}.bbox_coder.target_{key}'
                yield f'`{path}` has {len(numbers)} numbers, and a box {wanted}', path
    for name, loss in model.named_modules():
        owner = model.get_submodule(name.rpartition('.')[0])
        weights, classes = getattr(loss, 'class_weight', None), _numbers_of_classes(owner, loss)
        path = f'model.{name}.class_weight'.replace('loss_module', 'loss')  # as mmpretrain names it
        if 'loss' in name and isinstance(weights, (list, tuple)) and classes and len(weights) not in classes:
            yield (f'`{path}` has {len(weights)} numbers, and its head {" or ".join(map(str, sorted(classes)))} '
                   'classes', path)


def _strides(path: str, head: nn.Module, levels: Sequence[Tuple[int, ...]], size: int, source: str
             ) -> Iterator[Tuple[str, str]]:
    """The strides of anchors or points are as many as the levels; the first one is the stride of the first level."""
    priors = getattr(head, 'prior_generator', None)
    strides = [max(stride) if isinstance(stride, (list, tuple)) else stride
               for stride in getattr(priors, 'strides', None) or ()]
    path += '.anchor_generator.strides' if hasattr(head, 'anchor_generator') or 'Anchor' in type(priors).__name__ else (
        '.strides')
    if strides and len(strides) != len(levels):
        yield f'`{path}` are of {len(strides)} levels, and model.{source} gives {len(levels)}', path
    elif strides and len(levels[0]) == 3 and not 0.7 < strides[0] * max(levels[0][1:]) / size < 1.5:
        yield (f'`{path}` begin with {strides[0]}, and the first level that model.{source} gives has stride '
               f'{size / max(levels[0][1:]):g}', path)


def _numbers_of_classes(head: Any, loss: nn.Module) -> List[int]:
    """How many classes a loss may weigh: those of its head, in mmdet with the background unless they are sigmoids."""
    classes = getattr(head, 'num_classes', None)
    if not isinstance(classes, int) or getattr(loss, 'use_mask', False):
        return []
    background = type(loss).__module__.startswith('mmdet.') and not getattr(loss, 'use_sigmoid', False)
    channels = getattr(head, 'out_channels', None)  # of mmseg, where two classes may have one channel
    return sorted({classes, *[classes + 1] * background, *[channels] * isinstance(channels, int)})
