"""Batch normalization with what its backward needs, by the kernel that PyTorch's own module runs."""
from typing import Optional, Tuple

import torch
from torch import Tensor


def batch_norm(x: Tensor, weight: Optional[Tensor], bias: Optional[Tensor], running_mean: Optional[Tensor],
               running_var: Optional[Tensor], training: bool, momentum: float,
               eps: float) -> Tuple[Tensor, Tensor, Tensor]:
    """``F.batch_norm``, and the batch's mean and inverse deviation (empty without ``training``).

    On a GPU that is cuDNN's kernel if it supports dtype and layout, otherwise ATen's. The kernel must not depend
    on whether a graph is recorded: a reversible network evaluates the layer once without a graph and once with one, and
    their difference is an error of the reconstructed streams.

    Shape:
        ``x``: ``(B, C, ...)``; the vectors: ``(C,)``.
    """
    y, mean, invstd, _, _ = torch._batch_norm_impl_index(x, weight, bias, running_mean, running_var, training, momentum,
                                                         eps, torch.backends.cudnn.enabled)
    return y, mean, invstd
