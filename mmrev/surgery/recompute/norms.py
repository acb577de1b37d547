"""Outputs of norms from their inputs and the statistics of the forward."""
from functools import partial
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .recipe import Kept
from .recorder import Recorder
from .table import handles, pure


@handles(F.batch_norm)
def _batch_norm(recorder, function, args, kwargs):
    return _normalize(recorder, *args, **kwargs)


def _normalize(recorder: Recorder, input: Tensor, running_mean: Optional[Tensor], running_var: Optional[Tensor],
               weight: Optional[Tensor] = None, bias: Optional[Tensor] = None, training: bool = False,
               momentum: float = 0.1, eps: float = 1e-5) -> Tensor:
    if training:
        F._verify_batch_size(input.size())
    recorder.begin()
    out, mean, invstd, _, _ = torch._batch_norm_impl_index(  # torch.batch_norm calls this, and returns the first result
        input, weight, bias, running_mean, running_var, training, momentum, eps, torch.backends.cudnn.enabled)
    if out.requires_grad:
        source, cost = recorder.source(input)
        affine, _ = recorder.arguments([weight, bias])
        if training:
            recorder.write(out, by_batch, [source, Kept(mean), Kept(invstd), *affine], cost)
        else:  # a later call may update the running statistics, without a new version
            statistics = [Kept(running_mean.clone()), Kept(running_var.clone())]
            recorder.write(out, partial(by_running, eps=eps), [source, *statistics, *affine], cost)
    return out


def by_batch(x: Tensor, mean: Tensor, invstd: Tensor, weight: Optional[Tensor], bias: Optional[Tensor]) -> Tensor:
    """Normalize by given statistics, on CPUs bitwise as in the forward.

    The kernel gets a variance of 1, so that it multiplies by ``weight * invstd``, as in the forward.
    """
    scale = invstd if weight is None else weight * invstd
    bias = torch.zeros_like(mean) if bias is None else bias.to(scale.dtype)
    return torch.native_batch_norm(x, scale, bias, mean, torch.ones_like(mean), False, 0., 0.)[0]


def by_running(x: Tensor, mean: Tensor, var: Tensor, weight: Optional[Tensor], bias: Optional[Tensor],
               eps: float) -> Tensor:
    """Normalize by running statistics."""
    return torch.native_batch_norm(x, weight, bias, mean, var, False, 0., eps)[0]


@handles(torch.batch_norm_elemt)
def _synchronised(recorder, function, args, kwargs):
    """Inside the autograd function of SyncBatchNorm, which saves the input itself."""
    out = function(*args, **kwargs)
    if not torch.is_grad_enabled():
        made = [Kept(a.detach()) if isinstance(a, Tensor) else a for a in args]
        recorder.write(out, partial(function, **kwargs), made)
    return out


Recorder.without_grad = frozenset([torch.batch_norm_elemt])


@handles(F.layer_norm)
def _layer_norm(recorder, function, args, kwargs):
    return _norm_of(recorder, function, *args, **kwargs)


def _norm_of(recorder, function, input, normalized_shape, weight=None, bias=None, eps=1e-5):
    return pure(recorder, function, (input, tuple(normalized_shape), weight, bias, eps), {})


@handles(F.group_norm)
def _group_norm(recorder, function, args, kwargs):
    return _norm_of_groups(recorder, function, *args, **kwargs)


def _norm_of_groups(recorder, function, input, num_groups, weight=None, bias=None, eps=1e-5):
    return pure(recorder, function, (input, num_groups, weight, bias, eps), {})


@handles(F.instance_norm)
def _instance_norm(recorder, function, args, kwargs):
    return _norm_of_instances(recorder, function, *args, **kwargs)


def _norm_of_instances(recorder, function, input, running_mean=None, running_var=None, weight=None, bias=None,
                       use_input_stats=True, momentum=0.1, eps=1e-5):
    args = (input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)
    return function(*args) if use_input_stats and running_mean is not None else pure(recorder, function, args, {})
