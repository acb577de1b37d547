"""The guard of all fused forms: when one may replace the modules of a formula."""
from contextlib import nullcontext
from functools import lru_cache
from typing import Any, Callable, ContextManager

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.fx import _symbolic_trace

from mmrev import compat


def may_fuse(*modules: nn.Module) -> bool:
    """Whether a fused form may take the place of these modules.

    False while the network is traced, exported, compiled or transformed, which all choose their own forms; and where a
    hook, on one of the modules or on all modules, or a replaced ``forward`` has to see them run. A form itself checks
    the classes that it supports by ``type(module) is ...``, so that the forward of a subclass, such as an adapter, is
    used.
    """
    return not (is_staged() or modules and compat.has_global_hooks() or any(map(_is_watched, modules)))


def is_staged() -> bool:
    """Whether the network is traced, exported, compiled or transformed."""
    return (torch.jit.is_tracing() or compat.is_compiling() or _symbolic_trace._is_fx_tracing_flag
            or torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0)


def constant(make: Callable[..., Tensor], *args: Any) -> Tensor:
    """``make(*args)``, cached for later calls; for masks that a step needs in forward and recomputation.

    Tensors that are not ordinary ones are not cached: those of a staged network, of inference mode, of a dispatch mode
    (fake tensors), and those made while a CUDA graph is captured.

    Args:
        make: Returns equal tensors for equal arguments.
        args: Hashable; the last is the device.
    """
    capturing = args[-1].type == 'cuda' and torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
    if capturing or is_staged() or torch.is_inference_mode_enabled() or torch._C._len_torch_dispatch_stack():
        return make(*args)
    return _constant(make, *args)


@lru_cache(maxsize=16)
def _constant(make: Callable[..., Tensor], *args: Any) -> Tensor:
    return make(*args)


def needs_gradient(*tensors: Tensor) -> bool:
    """Whether autograd records what is computed from these."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def without_autocast(device_type: str) -> ContextManager:
    """Autocast off, on devices that support it: the meta device does not."""
    known = compat.is_autocast_available(device_type)
    return torch.autocast(device_type, enabled=False) if known else nullcontext()


def _is_watched(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
                or module._backward_pre_hooks or 'forward' in module.__dict__)
