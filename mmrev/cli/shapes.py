"""Do the parts of a model fit each other? Run a small empty image through it and look at the channels."""
import contextlib
from typing import ContextManager, Dict, List, NamedTuple, Optional, Tuple

import torch
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmrev.problems import ProblemError, one_line


_SIZES = (128, 256)  # of the image, in pixels


class Misfit(NamedTuple):
    """A layer that gets another number of channels than it takes."""

    layer: str
    takes: int
    gets: int


class _Stopped(Exception):
    """The forward came to a misfit."""


def check_channels(model: nn.Module, file: str) -> None:
    """Check that every layer of a model gets as many channels as it takes.

    Args:
        model: The model, built for this: it is changed, to be quick. One that cannot be run on an empty image is left
            to the run itself.
        file: The config, for the message.

    Raises:
        ProblemError: If a layer does not; the same for images of two sizes, or it would be a matter of the size.
    """
    takes, gives = _image_channels(model)
    if gives == 3 and takes not in (None, 3):  # a mean of one value is subtracted from all channels
        raise ProblemError(f'model.backbone takes images of {takes} channels, and model.data_preprocessor gives 3',
                        f'Make model.backbone.in_channels and model.data_preprocessor.mean agree in {file}')
    given: Dict[str, List[int]] = {}
    misfit = find_misfit(model, _SIZES[0], given)
    if misfit is not None and find_misfit(model, _SIZES[1], given) == misfit:
        part = misfit.layer.split('.')[0]
        before = [f'; model.{name} gives {channels}' for name, channels in given.items() if name != part]
        raise ProblemError(f'model.{misfit.layer} takes {misfit.takes} channels and gets {misfit.gets}' +
                        (before[-1] if before else ''), f'Make the channels that model.{part} takes in {file} agree')
    wanted = getattr(getattr(model, 'neck', None), 'in_channels', None)
    levels = given.get('backbone')
    if isinstance(wanted, (list, tuple)) and levels and len(wanted) != len(levels) and 'neck' not in given:
        raise ProblemError(f'model.neck takes {len(wanted)} levels, of {list(wanted)} channels, and model.backbone gives '
                        f'{len(levels)}, of {levels}', f'Make model.neck.in_channels agree with that in {file}')


def check_bfloat16(model: nn.Module) -> None:
    """Check that a model can be run in bfloat16 on the CPU, if it can be run on an empty image at all.

    Args:
        model: The model, built.

    Raises:
        ProblemError: If it cannot.
    """
    from mmrev.optim.bfloat16_optim_wrapper import bfloat16
    if _failure(model, contextlib.nullcontext()) is None:
        error = _failure(model, bfloat16(model))
        if error is not None:
            raise ProblemError(f'{type(model).__name__} cannot be trained in bfloat16 on the CPU: {one_line(error)}',
                            'Leave out --amp (or optim_wrapper.type), or train on a GPU') from error


def find_misfit(model: nn.Module, size: int, given: Dict[str, List[int]]) -> Optional[Misfit]:
    """The first layer that an image of `size` cannot pass; writes what each part of the model gave to `given`."""
    seen: List[Optional[Misfit]] = []

    def look(name, takes, axis, args):
        value = args[0][0] if args and isinstance(args[0], (tuple, list)) else args[0] if args else None
        gets = value.shape[axis] if isinstance(value, torch.Tensor) and value.ndim > 1 else takes
        seen.append(Misfit(name, takes, gets) if gets != takes else None)
        if gets != takes:
            raise _Stopped

    def note(name, output):
        maps = [output] if isinstance(output, torch.Tensor) else output
        if isinstance(maps, (tuple, list)) and all(isinstance(value, torch.Tensor) for value in maps):
            given[name] = [value.shape[1] for value in maps if value.ndim > 1]

    hooks = [module.register_forward_pre_hook(lambda module, args, name=name: look(name, *_taken(module), args))
             for name, module in model.named_modules() if _taken(module) is not None]
    hooks += [module.register_forward_hook(lambda module, args, output, name=name: note(name, output))
              for name, module in model.named_children()]
    try:
        _failure(model, contextlib.nullcontext(), size)
    finally:
        for hook in hooks:
            hook.remove()
    return seen[-1] if len(seen) > 1 else None  # not the first layer: the empty image may be the mistake


def _image_channels(model: nn.Module) -> Tuple[Optional[int], Optional[int]]:
    """How many channels one of our backbones takes, and the data preprocessor gives, as far as they say."""
    backbone, mean = getattr(model, 'backbone', None), getattr(getattr(model, 'data_preprocessor', None), 'mean', None)
    ours = type(backbone).__module__.startswith('mmrev.')  # in the hosts, `in_channels` may be those after the stem
    return getattr(backbone, 'in_channels', None) if ours else None, None if mean is None else len(mean)


def _taken(module: nn.Module) -> Optional[Tuple[int, int]]:
    """How many channels a layer takes, and at which axis; `None` if that cannot be said."""
    if isinstance(module, nn.Linear):
        return module.in_features, -1
    if isinstance(module, nn.Conv2d):
        return module.in_channels, 1
    if isinstance(module, _BatchNorm):
        return module.num_features, 1
    if hasattr(module, 'roi_layers') and hasattr(module, 'out_channels'):  # of mmdet, which gives what it takes
        return module.out_channels, 1
    return None


def _failure(model: nn.Module, context: ContextManager, size: int = _SIZES[0]) -> Optional[Exception]:
    """Run an empty image of `size` through a model, without losses; what stopped it.

    That need not be a mistake: the model may want text, queries or annotations, and the run shows whether it works.
    """
    image = torch.zeros(1, next(filter(None, _image_channels(model)), 3), size, size)
    sample = BaseDataElement(metainfo=dict(img_shape=(size, size), ori_shape=(size, size), pad_shape=(size, size),
                                           batch_input_shape=(size, size), scale_factor=(1., 1.)))
    model.eval()
    for module in model.modules():
        test_cfg = getattr(module, 'test_cfg', None)
        if isinstance(test_cfg, dict) and 'max_per_img' in test_cfg:
            test_cfg['max_per_img'] = 2  # boxes for the next head: a thousand would take a minute
    try:
        if isinstance(model, BaseModel):
            with torch.no_grad(), context:
                model(image, [sample], mode='tensor')
    except Exception as error:
        return error
    return None
