"""Normalization by the statistics of a batch, of a batch spread over processes, or of a whole training."""
from typing import Any, NamedTuple, Optional, Tuple

import torch
import torch.distributed as dist
from torch import Tensor

from mmrev.layers.fused.batch_norm import batch_norm

from .activations import Activation


class Settings(NamedTuple):
    """All settings of a call, except its input and parameters."""
    running_mean: Optional[Tensor]
    running_var: Optional[Tensor]
    batch: bool  # normalize by the batch's statistics, not by the running ones
    momentum: float
    eps: float
    activation: Activation
    name: str = 'inplace_abn'  # for messages
    sync: bool = False  # the batch is spread over the processes of `group`
    group: Any = None


class Normalised(NamedTuple):
    """The output, and the vectors ``(C,)`` that it was computed with."""
    z: Tensor
    scale: Tensor
    shift: Tensor
    invstd: Tensor
    count: Any  # values per channel: int, or a tensor where processes joined theirs
    mean: Tensor


def is_distributed(group: Any = None) -> bool:
    """Whether there are other processes to synchronize with."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1


def normalize(x: Tensor, weight: Optional[Tensor], bias: Optional[Tensor], settings: Settings,
              residual: Optional[Tensor] = None) -> Normalised:
    """``act(scale * (x - mean) / sqrt(var + eps) + shift + residual)``, computed within one new tensor, without a
    graph.

    Updates the running statistics if the batch's are used.
    """
    s = settings
    scale, shift = _affine(x, weight, bias, s)
    count = x.numel() // x.shape[1]
    if not s.batch:
        mean, invstd = s.running_mean, (s.running_var + s.eps).rsqrt_()
        y = _transform(x, scale, shift, s.running_mean, s.running_var, s.eps)
    elif s.sync:
        mean, var, count = _joint_statistics(x, scale.dtype, s)
        invstd = (var + s.eps).rsqrt_()
        y = _transform(x, scale, shift, mean, var, s.eps)
    else:
        y, mean, invstd = batch_norm(x, scale, shift, s.running_mean, s.running_var, True, s.momentum, s.eps)
    if residual is not None:
        y += residual
    return Normalised(s.activation.apply(y, inplace=True), scale, shift, invstd, count, mean)


def _affine(x: Tensor, weight: Optional[Tensor], bias: Optional[Tensor], s: Settings) -> Tuple[Tensor, Tensor]:
    """Scale ``|weight| + eps`` and shift; tensors of our own, so that a later change of the parameters is harmless."""
    if weight is not None:
        return weight.detach().abs().add_(s.eps), bias.detach().clone()
    known = s.running_mean
    dtype = known.dtype if known is not None else torch.promote_types(x.dtype, torch.float32)
    return x.new_ones(x.shape[1], dtype=dtype), x.new_zeros(x.shape[1], dtype=dtype)


def _transform(x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, var: Tensor, eps: float) -> Tensor:
    if not x.numel():
        return torch.empty_like(x)
    return torch.native_batch_norm(x, scale, shift, mean, var, False, 0., eps)[0]


def _joint_statistics(x: Tensor, dtype: torch.dtype, s: Settings) -> Tuple[Tensor, Tensor, Tensor]:
    """Mean, biased variance and count over the processes of a group, whose batches may differ in size or be empty.

    Each process contributes its mean and squared deviations, which are combined by counts (Chan et al. 1979), which
    loses nothing where the mean is large, as a mean of squares would.
    """
    channels = x.shape[1]
    count = x.numel() // channels
    mean, var = x.new_zeros(2, channels, dtype=dtype)
    if count:
        mean, var = torch.ops.aten.batch_norm_update_stats(x, mean, var, 0.)
    mine = torch.cat([mean, var, mean.new_full((1, ), count)])
    joint = mine.new_empty(dist.get_world_size(s.group), len(mine))
    if x.is_cuda:
        dist.all_gather_into_tensor(joint, mine, group=s.group)
    else:  # Gloo of older versions cannot
        dist.all_gather(list(joint), mine, group=s.group)
    means, variances, counts = joint.split([channels, channels, 1], 1)  # (R, C), (R, C), (R, 1)
    total = counts.sum()
    if count <= 1 and total <= 1:  # reads the device only if it may matter
        if total == 1:
            raise ValueError(too_few_values(s.name, x))
        return mean, var, total
    mean = (means * counts).sum(0) / total
    var = ((variances + (means - mean).square_()) * counts).sum(0) / total
    if s.running_mean is not None:
        s.running_mean.lerp_(mean.to(s.running_mean.dtype), s.momentum)
        s.running_var.lerp_((var * (total / (total - 1))).to(s.running_var.dtype), s.momentum)
    return mean, var, total


def too_few_values(name: str, x: Tensor) -> str:
    return (f'{name} needs more than one value per channel to compute the statistics of a batch, got an input of shape '
            f'{tuple(x.shape)}; use a larger batch or input, or freeze the statistics (`norm_eval=True`, `.eval()`)')
