"""Batch normalization with what its backward needs, by the kernel that PyTorch's own module runs."""
from functools import partial
from typing import Any, Optional, Tuple

import torch
from torch import Tensor

from mmrev.reversible.notes import noted, takes_notes

_MANY_VALUES = 2**16  # of the input; with fewer of them to note their statistics takes longer than to compute them


def batch_norm(x: Tensor, weight: Optional[Tensor], bias: Optional[Tensor], running_mean: Optional[Tensor],
               running_var: Optional[Tensor], training: bool, momentum: float,
               eps: float, owner: Any = None) -> Tuple[Tensor, Tensor, Tensor]:
    """``F.batch_norm``, and the batch's mean and inverse deviation (empty without ``training``).

    On a GPU that is cuDNN's kernel if it supports dtype and layout, otherwise ATen's. The kernel must not depend
    on whether a graph is recorded: a reversible network evaluates the layer once without a graph and once with one, and
    their difference is an error of the reconstructed streams.

    The second evaluation of a reversible function uses the statistics of the first: on a CPU, to compute them takes up
    to nine tenths of a batch norm's time.

    Args:
        owner: The layer; None if nothing is to be noted.

    Shape:
        ``x``: ``(B, C, ...)``; the vectors: ``(C,)``.
    """
    if training and owner is not None and can_note(x) and _same_dtype(x, weight, bias, running_mean, running_var):
        mean, var, invstd = noted(owner, partial(_statistics, x, running_mean, running_var, momentum, eps))
        return torch.native_batch_norm(x, weight, bias, mean, var, False, 0., eps)[0], mean, invstd
    y, mean, invstd, _, _ = torch._batch_norm_impl_index(x, weight, bias, running_mean, running_var, training, momentum,
                                                         eps, torch.backends.cudnn.enabled)
    return y, mean, invstd


def can_note(x: Tensor) -> bool:
    """Whether the statistics of ``x`` can be reused, and are so expensive that it pays."""
    return (takes_notes() and x.numel() >= _MANY_VALUES and x.device.type in ('cpu', 'meta')
            and x.dtype in (torch.float32, torch.float64))


def _same_dtype(x: Tensor, *vectors: Optional[Tensor]) -> bool:
    return all(v is None or v.dtype is x.dtype for v in vectors)


def _statistics(x: Tensor, running_mean: Optional[Tensor], running_var: Optional[Tensor], momentum: float,
                eps: float) -> Tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and inverse deviation of the batch; updates the running statistics."""
    if x.is_meta:  # for which PyTorch lacks the operator
        mean, var = x.new_empty(x.shape[1]), x.new_empty(x.shape[1])
    else:
        mean, var = torch.batch_norm_update_stats(x, running_mean, running_var, momentum)
    return mean, var, (var + eps).rsqrt_()
