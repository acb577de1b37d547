"""Batch normalization and activation."""
from typing import Optional

from torch import Tensor, nn

from .fused.norm_act import can_fuse, fused_norm_act


def norm_act(x: Tensor, norm: nn.Module, act: Optional[nn.Module]) -> Tensor:
    """``act(norm(x))`` that stores only ``x`` for backward.

    PyTorch's batch norm stores its input, and an activation like Hardswish its own, which is the batch norm's output.
    The fused form recomputes the latter in backward. It exists for PyTorch's batch norms with Hardswish or SiLU; other
    pairs are evaluated separately. On a CPU, the second evaluation of a reversible function takes the batch's
    statistics from the first.

    Args:
        x: Input.
        norm: A norm. Its running statistics are updated as in its own forward.
        act: An activation, or None.

    Shape:
        Whatever ``norm`` takes; output: that of ``norm``.
    """
    if can_fuse(x, norm, act):
        return fused_norm_act(x, norm, act)
    x = norm(x)
    return x if act is None else act(x)
