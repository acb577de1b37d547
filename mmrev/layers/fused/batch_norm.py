"""Batch normalization with what its backward needs, by the kernel that PyTorch's own module runs."""
from functools import partial
from typing import Any, Optional, Tuple

import torch
from torch import Tensor

from mmrev.reversible.notes import noted, takes_notes


def batch_norm(x: Tensor, weight: Optional[Tensor], bias: Optional[Tensor], running_mean: Optional[Tensor],
               running_var: Optional[Tensor], training: bool, momentum: float,
               eps: float, owner: Any = None) -> Tuple[Tensor, Tensor, Tensor]:
    """``F.batch_norm``, and the batch's mean and inverse deviation (empty without ``training``).

    The second evaluation of a reversible function uses the statistics of the first: on a CPU, to compute them takes up
    to nine tenths of a batch norm's time.

    On a GPU that is cuDNN's kernel if it supports dtype and layout, otherwise ATen's. The kernel must not depend
    on whether a graph is recorded: a reversible network evaluates the layer once without a graph and once with one, and
    their difference is an error of the reconstructed streams.

    Args:
        owner: The layer; None if nothing is to be noted.

    Shape:
        ``x``: ``(B, C, ...)``; the vectors: ``(C,)``.
    """
    if training and owner is not None and takes_notes() and _can_note(x, weight, bias, running_mean, running_var):
        mean, var = noted(owner, partial(torch.batch_norm_update_stats, x, running_mean, running_var, momentum))
        y = torch.native_batch_norm(x, weight, bias, mean, var, False, 0., eps)[0]
        return y, mean, (var + eps).rsqrt_()
    y, mean, invstd, _, _ = torch._batch_norm_impl_index(x, weight, bias, running_mean, running_var, training, momentum,
                                                         eps, torch.backends.cudnn.enabled)
    return y, mean, invstd


def _can_note(x: Tensor, *vectors: Optional[Tensor]) -> bool:
    return (x.device.type == 'cpu' and x.dtype in (torch.float32, torch.float64)
            and all(v is None or v.dtype is x.dtype for v in vectors))
