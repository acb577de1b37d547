"""Gradients of fused forms that can be differentiated again, or are many at once."""
from typing import Callable, List, Optional, Sequence

import torch
from torch import Tensor

from mmrev import compat

from .guard import without_autocast


def needs_plain_gradients(dz: Tensor) -> bool:
    """Whether ``dz`` comes from a backward with ``create_graph=True`` or is a batch of gradients.

    Operators that write to a given tensor support neither.
    """
    return torch.is_grad_enabled() or compat.is_batched(dz)


def plain_gradients(f: Callable[..., Tensor], inputs: Sequence[Optional[Tensor]], dz: Tensor,
                    cast: bool = False) -> List[Optional[Tensor]]:
    """Gradients of ``f(*inputs)``, for a backward that :func:`needs_plain_gradients`.

    A fused backward has no graph. ``once_differentiable`` would not help: its error is not raised where autograd
    computes the gradients of given tensors, and they would be wrong.

    Args:
        f: The plain form, of operators that PyTorch can differentiate twice.
        inputs: Gradients are returned in their order; None for those that require none.
        dz: The gradient of the output.
        cast: Whether ``f`` takes its inputs in the dtype of ``dz``, as under autocast.
    """
    needed = [x is not None and x.requires_grad for x in inputs]
    create_graph = torch.is_grad_enabled()
    with without_autocast(dz.device.type), torch.enable_grad():
        aliases = [x.view_as(x) if x is not None and x.requires_grad else x for x in inputs]  # without their hooks
        wanted = [x for x, needs in zip(aliases, needed) if x is not None and needs]
        z = f(*(x.to(dz.dtype) if cast and x is not None else x for x in aliases))
        found = iter(torch.autograd.grad(z, wanted, dz, create_graph=create_graph))
    return [next(found) if needs else None for needs in needed]
