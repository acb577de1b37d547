"""Mixed precision in bfloat16, including on the CPU."""
import contextlib
from typing import Any, Iterator

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from mmrev.registry import OPTIM_WRAPPERS

_PARTS = ('backbone', 'neck', 'head')  # endings of the names of a model's parts: rpn_head, roi_head.mask_head, ...


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Train under autocast in bfloat16, on the device that the model is on.

    mmengine's `AmpOptimWrapper` needs an accelerator. bfloat16 has the range of float32, so the loss is not scaled.
    Gradients, weights and the optimizer state stay float32.

    Outputs of the parts of a model (backbone, neck, heads) are cast back to float32: mmcv's operators between them,
    such as RoIAlign and NMS, have no bfloat16 kernels on the CPU.
    """

    @contextlib.contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Enable autocast for the forward of a training step."""
        with super().optim_context(model), bfloat16(model):
            yield


@contextlib.contextmanager
def bfloat16(model: nn.Module) -> Iterator[None]:
    """Run a model under autocast in bfloat16, with float32 between backbone, neck and heads."""
    device = next(model.parameters()).device.type
    hooks = [part.register_forward_hook(lambda _module, _args, output: _float32(output)) for part in _parts(model)]
    try:
        with torch.autocast(device, torch.bfloat16):
            yield
    finally:
        for hook in hooks:
            hook.remove()


def _parts(module: nn.Module, name: str = '') -> Iterator[nn.Module]:
    """The parts of a model. Backbones and necks have no parts and are not searched.

    Args:
        module: The model, or a module within it.
        name: Name of the module; entries of a list use the name of the list.
    """
    for child_name, child in module.named_children():
        if child_name.isdigit():
            child_name = name
        elif name.endswith(_PARTS[:2]):
            continue
        if child_name.endswith(_PARTS):
            yield child
        yield from _parts(child, child_name)


def _float32(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.float() if value.dtype is torch.bfloat16 else value
    if type(value) in (tuple, list):
        return type(value)(_float32(item) for item in value)
    return {key: _float32(item) for key, item in value.items()} if type(value) is dict else value
