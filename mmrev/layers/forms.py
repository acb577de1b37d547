"""When a layer may compute by another form of the same operators, and when everybody has to see PyTorch's own."""
import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook


def is_staged() -> bool:
    """Whether the network is traced, exported or compiled: what does that chooses its own forms."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()


def is_watched(module: nn.Module) -> bool:
    """Whether somebody wants to see its input or output, or to compute something else in its place."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
                or module._backward_pre_hooks or 'forward' in module.__dict__)


def is_any_watched() -> bool:
    """Whether somebody wants to see the input or output of all modules."""
    return _has_any_global_hook()


def needs_gradient(*tensors: Tensor) -> bool:
    """Whether autograd records what is computed from these."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)
