"""Find layers that get a wrong number of channels, by running a small blank image through the model."""
import contextlib
from typing import Any, ContextManager, Dict, List, NamedTuple, Optional, Tuple

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

SIZES = (128, 256)  # of the image, in pixels


class Misfit(NamedTuple):
    """A layer that gets a different number of channels than it takes."""

    layer: str
    takes: int
    gets: int


class _Stopped(Exception):
    """Raised to stop the forward at a misfit."""


def find_misfit(model: nn.Module, samples: Dict[int, Any], given: Dict[str, List[Tuple[int, ...]]]) -> Optional[Misfit]:
    """Return the first layer that gets a wrong number of channels at every image size, or None.

    Args:
        model: Called as mmengine's models are; see `failure`.
        samples: The data sample for each image size (height and width).
        given: Filled with the shapes of the outputs of each part, without the batch: channels, height, width.
    """
    found = [_misfit(model, size, sample, given) for size, sample in samples.items()]
    return found[0] if len(set(found)) == 1 else None  # otherwise it depends on the size


def failure(model: nn.Module, size: int, sample: Any, context: ContextManager = contextlib.nullcontext()
            ) -> Optional[Exception]:
    """Run a blank image through a model, without losses; return the exception that stopped it, or None.

    An exception does not prove a mistake: the model may need text, queries or annotations.

    Args:
        model: Switched to evaluation mode; its heads keep only a few boxes from then on.
        size: Height and width.
        sample: Metadata of the image.
        context: Entered around the forward.
    """
    image = torch.zeros(1, next(filter(None, image_channels(model)), 3), size, size)
    model.eval()
    for module in model.modules():
        test_cfg = getattr(module, 'test_cfg', None)
        if isinstance(test_cfg, dict) and 'max_per_img' in test_cfg:
            test_cfg['max_per_img'] = 2  # boxes for the next head: a thousand would take a minute
    try:
        with torch.no_grad(), context:
            model(image, [sample], mode='tensor')
    except Exception as error:
        return error
    return None


def image_channels(model: nn.Module) -> Tuple[Optional[int], Optional[int]]:
    """Channels that a backbone of mmrev takes and that the data preprocessor returns, each None if unknown."""
    backbone, mean = getattr(model, 'backbone', None), getattr(getattr(model, 'data_preprocessor', None), 'mean', None)
    ours = type(backbone).__module__.startswith('mmrev.')  # elsewhere it may mean the channels after the stem
    return getattr(backbone, 'in_channels', None) if ours else None, None if mean is None else len(mean)


def _misfit(model: nn.Module, size: int, sample: Any, given: Dict[str, List[Tuple[int, ...]]]) -> Optional[Misfit]:
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
            given[name] = [tuple(value.shape[1:]) for value in maps if value.ndim > 1]

    hooks = [module.register_forward_pre_hook(lambda module, args, name=name: look(name, *_taken(module), args))
             for name, module in model.named_modules() if _taken(module) is not None]
    hooks += [module.register_forward_hook(lambda module, args, output, name=name: note(name, output))
              for name, module in model.named_children()]
    try:
        failure(model, size, sample)
    finally:
        for hook in hooks:
            hook.remove()
    return seen[-1] if len(seen) > 1 else None  # except the first layer, where the blank image may be wrong


def _taken(module: nn.Module) -> Optional[Tuple[int, int]]:
    """Number of channels that a layer takes and their axis, or None if unknown."""
    if isinstance(module, nn.Linear):
        return module.in_features, -1
    if isinstance(module, nn.Conv2d):
        return module.in_channels, 1
    if isinstance(module, _BatchNorm):
        return module.num_features, 1
    if hasattr(module, 'roi_layers') and hasattr(module, 'out_channels'):  # mmdet's, which keep it
        return module.out_channels, 1
    return None
