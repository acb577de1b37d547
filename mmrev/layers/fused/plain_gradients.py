"""Gradients of fused forms that can be differentiated again."""
from typing import Callable, List, Optional, Sequence

import torch
from torch import Tensor

from .guard import without_autocast


def plain_gradients(f: Callable[..., Tensor], inputs: Sequence[Optional[Tensor]], dz: Tensor,
                    cast: bool = False) -> List[Optional[Tensor]]:
    """Gradients of ``f(*inputs)``, for a backward with ``create_graph=True``.

    A fused backward has no graph. ``once_differentiable`` would not help: its error is not raised where autograd
    computes the gradients of given tensors, and they would be wrong.

    Args:
        f: The plain form, of operators that PyTorch can differentiate twice.
        inputs: Gradients are returned in their order; None for those that require none.
        dz: The gradient of the output.
        cast: Whether ``f`` takes its inputs in the dtype of ``dz``, as under autocast.
    """
    needed = [x is not None and x.requires_grad for x in inputs]
    aliases = [x.view_as(x) if x is not None and x.requires_grad else x for x in inputs]  # without the inputs' hooks
    wanted = [x for x, needs in zip(aliases, needed) if x is not None and needs]
    with without_autocast(dz.device.type):
        z = f(*(x.to(dz.dtype) if cast and x is not None else x for x in aliases))
        found = iter(torch.autograd.grad(z, wanted, dz, create_graph=True))
    return [next(found) if needs else None for needs in needed]
