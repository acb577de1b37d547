"""Numbers of a model that must agree: levels, strides, numbers and forms of boxes, classes and weights of losses."""
import re
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
        yield from _boxes(f'model.{name}', part)
        if re.search(r'(bbox|mask)_roi_extractor(\.\d+)?$', name) and levels:
            yield from _pooled(f'model.{name}.featmap_strides', part, levels, size, source)
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


def _boxes(path: str, part: nn.Module) -> Iterator[Tuple[str, str]]:
    """Losses of IoU compare boxes, not their encoded differences; masks have the classes of the boxes."""
    loss = getattr(part, 'loss_by_feat', getattr(part, 'loss', None))
    if (getattr(loss, '__qualname__', '') in ('AnchorHead.loss_by_feat', 'RPNHead.loss_by_feat', 'BBoxHead.loss')
            and 'IoU' in type(part.loss_bbox).__name__ and not part.reg_decoded_bbox):
        yield (f'`{path}.loss_bbox` is {type(part.loss_bbox).__name__}, which compares boxes, and the head gives it '
               f'encoded ones: {path}.reg_decoded_bbox=True decodes them', f'{path}.reg_decoded_bbox')
    heads = [list(head) if isinstance(head, nn.ModuleList) else [head] for head in (
        getattr(part, 'bbox_head', None), getattr(part, 'mask_head', None))]
    for box, mask in zip(*heads):
        classes = [getattr(head, 'num_classes', None) for head in (box, mask)]
        if classes[0] != classes[1] and None not in classes and not getattr(mask, 'class_agnostic', False):
            yield (f'`{path}.mask_head.num_classes` is {classes[1]}, and that of bbox_head {classes[0]}',
                   f'{path}.mask_head.num_classes')


def _pooled(path: str, extractor: nn.Module, levels: Sequence[Tuple[int, ...]], size: int, source: str
            ) -> Iterator[Tuple[str, str]]:
    """The strides that boxes are pooled with are those of the first levels."""
    strides = [*(getattr(extractor, 'featmap_strides', None) or ())]
    found = [size / max(shape[1:]) for shape in levels if len(shape) == 3]
    if len(strides) > len(found) or not all(0.7 < one / other < 1.5 for one, other in zip(strides, found)):
        yield (f'`{path}` is {strides}, and the levels that model.{source} gives have the strides '
               f'{[round(stride) for stride in found]}', path)


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
