"""The layers as functions of their tensors."""
from typing import Any, Optional

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor

from ..fused.guard import is_staged, needs_gradient
from . import compiled
from .activations import get_activation
from .function import InPlaceABNFunction
from .statistics import Settings, is_distributed, normalize, too_few_values


def abn(x: Tensor,
        weight: Optional[Tensor],
        bias: Optional[Tensor],
        running_mean: Optional[Tensor],
        running_var: Optional[Tensor],
        training: bool = True,
        momentum: float = 0.1,
        eps: float = 1e-5,
        activation: str = 'leaky_relu',
        activation_param: Optional[float] = None,
        residual: Optional[Tensor] = None) -> Tensor:
    """Batch normalization with the scale ``|weight| + eps``, then an activation, by PyTorch's own operators.

    The reference for :func:`inplace_abn` (arXiv:1712.02616), with the same arguments, shapes and errors;
    ``relu`` is allowed with any statistics.
    """
    settings = Settings(running_mean, running_var, training, momentum, eps,
                        get_activation(activation, activation_param), 'abn')
    check_input(x, weight, settings, residual)
    return plain(x, weight, bias, settings, residual)


def inplace_abn(x: Tensor,
                weight: Optional[Tensor],
                bias: Optional[Tensor],
                running_mean: Optional[Tensor],
                running_var: Optional[Tensor],
                training: bool = True,
                momentum: float = 0.1,
                eps: float = 1e-5,
                activation: str = 'leaky_relu',
                activation_param: Optional[float] = None,
                backend: str = 'auto',
                residual: Optional[Tensor] = None) -> Tensor:
    """Batch normalization and activation that store only their output for backward (Rota Bulò et al. 2018).

    ``z = act((|weight| + eps) * (x - mean) / sqrt(var + eps) + bias + residual)``. The input is not changed.

    Args:
        x: Input.
        weight: ``(C,)``, or ``None`` for a scale of 1.
        bias: ``(C,)``; ``None`` with ``weight``.
        running_mean: ``(C,)``; updated with ``training``, if given.
        running_var: ``(C,)``; likewise, with the unbiased variance.
        training: Whether to normalize by the statistics of the batch instead of the running ones.
        momentum: Weight of the batch in the running statistics.
        eps: Added to the variance, and to the absolute weight.
        activation: ``leaky_relu``, ``elu`` or ``identity``; without ``training`` also ``relu``.
        activation_param: Slope of ``leaky_relu`` (by default 0.01) or alpha of ``elu`` (1).
        backend: ``'torch'``, ``'inplace_abn'`` for the compiled package of that name, which overwrites ``x``, or
            ``'auto'``: ``'torch'``.
        residual: Shortcut of a residual block, of the shape of the input. It is stored for backward, which a block
            does anyway.

    Shape:
        ``(B, C)``, ``(B, C, L)``, ``(B, C, H, W)`` or ``(B, C, D, H, W)``; output: the same, in the memory format and
        the type of the input.

    Raises:
        ValueError: For ``relu`` with ``training``; for one value per channel with ``training``; for shapes.
        ImportError: If the requested backend is not installed.
    """
    settings = Settings(running_mean, running_var, training, momentum, eps,
                        get_activation(activation, activation_param))
    return run(x, weight, bias, settings, backend, residual)


def inplace_abn_sync(x: Tensor,
                     weight: Optional[Tensor],
                     bias: Optional[Tensor],
                     running_mean: Optional[Tensor],
                     running_var: Optional[Tensor],
                     training: bool = True,
                     momentum: float = 0.1,
                     eps: float = 1e-5,
                     activation: str = 'leaky_relu',
                     activation_param: Optional[float] = None,
                     group: Any = None,
                     backend: str = 'auto',
                     residual: Optional[Tensor] = None) -> Tensor:
    """:func:`inplace_abn` with the statistics of the joined batch of all processes of ``group`` (by default the world).

    The batches may differ in size; one may be empty. As with ``torch.nn.SyncBatchNorm`` the gradients of weight and
    bias are those of the local batch, for DistributedDataParallel to reduce. Without a process group, or with one
    process, this is :func:`inplace_abn`, with the same other arguments, shapes and errors.
    """
    settings = Settings(running_mean, running_var, training, momentum, eps,
                        get_activation(activation, activation_param), 'inplace_abn_sync', is_distributed(group), group)
    return run(x, weight, bias, settings, backend, residual)


def run(x: Tensor, weight: Optional[Tensor], bias: Optional[Tensor], settings: Settings, backend: str,
        residual: Optional[Tensor] = None) -> Tensor:
    """Common implementation of the functions above and the modules."""
    if (weight is None) != (bias is None):
        raise ValueError(f'{settings.name} takes both weight and bias, or neither')
    package = compiled.package(backend)
    if not torch.jit.is_tracing():
        check_input(x, weight, settings, residual)
        _check_invertible(x, settings)
    if not settings.sync and (is_staged() or not x.numel()):
        return plain(x, weight, bias, settings, residual)  # the compiler itself chooses what to store
    if residual is not None and (package is not None or residual.dtype != x.dtype):
        y = run(x, weight, bias, settings._replace(activation=get_activation('identity')), backend)
        return settings.activation.apply(y + residual, inplace=True)
    if not needs_gradient(x, weight, bias, residual):
        return normalize(x, weight, bias, settings, residual).z
    if package is not None:
        return compiled.run(package, x, weight, bias, settings)
    return InPlaceABNFunction.apply(x, weight, bias, residual, settings)


def plain(x: Tensor, weight: Optional[Tensor], bias: Optional[Tensor], s: Settings,
          residual: Optional[Tensor] = None) -> Tensor:
    """Operators that any autograd, compiler or exporter supports."""
    scale = None if weight is None else torch.where(weight < 0, -weight, weight) + s.eps
    y = F.batch_norm(x, s.running_mean, s.running_var, scale, bias, s.batch, s.momentum, s.eps)
    if residual is not None:
        y = y + residual
    return s.activation.apply(y, inplace=not is_staged())


def check_input(x: Tensor, weight: Optional[Tensor], s: Settings, residual: Optional[Tensor] = None) -> None:
    if isinstance(x, torch.fx.Proxy):
        raise TypeError(f'{s.name} cannot be traced symbolically, as `efficient_conv_bn_eval` does; leave that '
                        'out, or convert the layer by `mmrev.surgery.to_batchnorm`')
    if not 2 <= x.ndim <= 5:
        raise ValueError(f'{s.name} takes an input of 2 to 5 dimensions, (B, C, ...); got shape {tuple(x.shape)}')
    if residual is not None and residual.shape != x.shape:
        raise ValueError(f'{s.name} needs a residual of its input\'s shape, {tuple(x.shape)}; got '
                         f'{tuple(residual.shape)}')
    known = weight if weight is not None else s.running_mean
    if known is not None and len(known) != x.shape[1]:
        raise ValueError(f'{s.name} has {len(known)} channels, but its input has {x.shape[1]}: {tuple(x.shape)}')
    if not s.batch and s.running_mean is None:
        raise ValueError(f'{s.name} has no running statistics to normalize by; pass them, or set `training=True`')
    if s.batch and not s.sync and x.numel() == x.shape[1]:
        raise ValueError(too_few_values(s.name, x))


def _check_invertible(x: Tensor, s: Settings) -> None:
    if s.eps <= 0:
        raise ValueError(f'{s.name} divides by |weight| + eps, so `eps` must be positive; got {s.eps}')
    if s.batch and not s.activation.invertible:
        raise ValueError(
            f'{s.name} cannot use `{s.activation.name}` with the statistics of the batch: the gradient of its input '
            f'needs all normalized values, and behind a {s.activation.name} negative ones cannot be recovered. Use '
            f'`leaky_relu`, or freeze the statistics (`norm_eval=True`), or use ABN, which keeps its input')
    s.activation.check(x.dtype)
