"""When a layer may compute by another form of the same operators, and when everybody has to see PyTorch's own."""
from contextlib import nullcontext
from typing import ContextManager

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx import _symbolic_trace

from mmrev import compat


def is_staged() -> bool:
    """Whether the network is traced, exported, compiled or transformed: what does that chooses its own forms."""
    return (torch.jit.is_tracing() or compat.is_compiling() or torch.onnx.is_in_onnx_export()
            or _symbolic_trace._is_fx_tracing_flag or torch._C._are_functorch_transforms_active()
            or forward_ad._current_level >= 0)


def without_autocast(device_type: str) -> ContextManager:
    """Autocast off, on devices that know it: the meta device does not."""
    known = compat.is_autocast_available(device_type)
    return torch.autocast(device_type, enabled=False) if known else nullcontext()


def is_watched(module: nn.Module) -> bool:
    """Whether somebody wants to see its input or output, or to compute something else in its place."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
                or module._backward_pre_hooks or 'forward' in module.__dict__)


def is_own_linear(layer: nn.Module) -> bool:
    """Whether it computes what ``nn.Linear`` does and nobody wants to see it do so: no adapter, no parametrization."""
    return type(layer) is nn.Linear and not is_watched(layer)


def is_any_watched() -> bool:
    """Whether somebody wants to see the input or output of all modules."""
    return compat.has_global_hooks()


def needs_gradient(*tensors: Tensor) -> bool:
    """Whether autograd records what is computed from these."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
