"""The layers as modules."""
import copy
from typing import Any, Optional, Tuple, Union

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from . import compiled, functional
from .activations import get_activation
from .statistics import Settings, is_distributed


class BatchStatistics(_BatchNorm):
    """A module without parameters, buffers or forward that frameworks use to switch the statistics of a layer.

    In eval mode, which ``norm_eval`` sets for every batch norm, the layer normalizes by its running statistics. If
    ``SyncBatchNorm`` replaces it, the layer synchronizes.
    """

    def __init__(self, num_features: int):
        super().__init__(num_features, affine=False, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError('this is only the switch of an activated batch norm; call the layer that contains it')

    def extra_repr(self) -> str:
        return ''


class ABN(_NormBase):
    """Activated batch norm: batch normalization with the scale ``|weight| + eps``, then an activation.

    It consists of PyTorch's own operators and is the reference for :class:`InPlaceABN`. Both have the state dict of
    ``torch.nn.BatchNorm2d``. Checkpoints without ``num_batches_tracked``, like the published ones, load as well.

    It is not a subclass of ``_BatchNorm``: tools that fold or replace those (``fuse_conv_bn``,
    ``convert_sync_batchnorm``, ``efficient_conv_bn_eval``) know neither the activation nor the absolute weight. Its
    child ``statistics`` is a ``_BatchNorm``: ``norm_eval`` freezes it and ``sync_bn`` synchronizes it. For mmengine's
    ``norm_decay_mult``, which recognizes norms by their class, see :class:`mmrev.optim.OptimWrapperConstructor`.

    Args:
        num_features: Channels ``C``.
        eps: Added to the variance, and to the absolute weight.
        momentum: Weight of the batch in the running statistics; ``None`` for a cumulative average.
        affine: Whether there are weight and bias.
        track_running_stats: Whether there are running statistics; without, those of the batch are used in eval too.
        activation: ``leaky_relu``, ``elu``, ``identity`` or ``relu``.
        activation_param: Slope of ``leaky_relu`` (by default 0.01) or alpha of ``elu`` (1).
        device: Device of parameters and buffers.
        dtype: Dtype of parameters and buffers; float32 also works with an input in half precision.

    Shape:
        ``(B, C)``, ``(B, C, L)``, ``(B, C, H, W)`` or ``(B, C, D, H, W)``; ``residual``, if given, which is added
        before the activation: the same; output: the same, in the memory format and the type of the input.

    Raises:
        ValueError: For an unknown activation, and in forward for a shape or a single value per channel in training.
    """
    _abbr_ = 'bn'
    skips_untracked_statistics = True  # a reversible network replays it with `track_running_stats` off

    def __init__(self,
                 num_features: int,
                 eps: float = 1e-5,
                 momentum: Optional[float] = 0.1,
                 affine: bool = True,
                 track_running_stats: bool = True,
                 activation: str = 'leaky_relu',
                 activation_param: Optional[float] = None,
                 device: Union[torch.device, str, None] = None,
                 dtype: Optional[torch.dtype] = None):
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        self.activation = activation
        self.activation_param = get_activation(activation, activation_param).param
        self.statistics = BatchStatistics(num_features)

    def forward(self, x: Tensor, residual: Optional[Tensor] = None) -> Tensor:
        settings = self._settings()
        if settings.sync:  # PyTorch has an operator for that only on GPUs
            return functional.run(x, self.weight, self.bias, settings, 'torch', residual)
        functional.check_input(x, self.weight, settings, residual)
        return functional.plain(x, self.weight, self.bias, settings, residual)

    def __prepare_scriptable__(self):
        raise TypeError(f'{type(self).__name__} cannot be scripted by `torch.jit.script`; turn it into a batch norm by '
                        '`mmrev.surgery.to_batchnorm` first')

    def _settings(self) -> Settings:
        training = self.training and self.statistics.training
        tracked = training and self.track_running_stats
        momentum = 0. if self.momentum is None else self.momentum
        if tracked:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                momentum = 1 / float(self.num_batches_tracked)
        batch = training or self.running_mean is None
        mean, var = (self.running_mean, self.running_var) if tracked or not batch else (None, None)
        sync, group = self._group() if training else (False, None)
        return Settings(mean, var, batch, momentum, self.eps, get_activation(self.activation, self.activation_param),
                        f'{type(self).__name__}({self.num_features})', sync and is_distributed(group), group)

    def _group(self) -> Tuple[bool, Any]:
        """Whether to synchronize, and with which group: that of the module that replaced our switch, if any."""
        for name in ('process_group', 'group'):  # torch, mmcv
            if hasattr(self.statistics, name):
                return True, getattr(self.statistics, name)
        return False, None

    def _load_from_state_dict(self, state_dict, prefix, *args):
        if self.track_running_stats:
            known = self.num_batches_tracked
            known = torch.tensor(0) if known.is_meta else known
            state_dict.setdefault(f'{prefix}num_batches_tracked', known)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, activation={get_activation(self.activation, self.activation_param)}'


class InPlaceABN(ABN):
    """:class:`ABN` that stores only its output for backward: half the memory of a convolutional network.

    In backward the input's normalized values are recovered from the output (Rota Bulò et al. 2018, arXiv:1712.02616,
    section 3.1). The input is never written to; a change of the output before backward is an error that names the
    layer.

    With running statistics (eval, ``norm_eval``) it saves memory as well, and ``relu`` is exact: the gradient of the
    weight needs normalized values only where the output is positive. With batch statistics ``relu`` raises.

    The last norm of a residual block also adds the shortcut: ``bn3(x, residual=shortcut)`` is
    ``act(norm(x) + shortcut)`` and stores output and shortcut, which the blocks store anyway.

    The precision of the recovered values is that of the output, relative to the scale: a weight that is much smaller
    than its bias gets a finite but inaccurate gradient.

    Args:
        num_features: This and the other arguments are those of :class:`ABN`.
        backend: ``'auto'`` and ``'torch'`` use PyTorch's operators on every device. ``'inplace_abn'`` uses the
            compiled package of that name if a gradient is needed; it overwrites its input.

    Raises:
        ValueError: Also in forward, for ``relu`` with batch statistics.
        ImportError: If the compiled package is requested but not installed.
    """

    def __init__(self,
                 num_features: int,
                 eps: float = 1e-5,
                 momentum: Optional[float] = 0.1,
                 affine: bool = True,
                 track_running_stats: bool = True,
                 activation: str = 'leaky_relu',
                 activation_param: Optional[float] = None,
                 backend: str = 'auto',
                 device=None,
                 dtype=None):
        super().__init__(num_features, eps, momentum, affine, track_running_stats, activation, activation_param, device,
                         dtype)
        if eps <= 0:
            raise ValueError(f'`eps` must be positive, because the backward divides by |weight| + eps; got {eps}')
        compiled.package(backend)
        self.backend = backend

    def forward(self, x: Tensor, residual: Optional[Tensor] = None) -> Tensor:
        return functional.run(x, self.weight, self.bias, self._settings(), self.backend, residual)

    def extra_repr(self) -> str:
        return super().extra_repr() + ('' if self.backend == 'auto' else f', backend={self.backend}')


class InPlaceABNSync(InPlaceABN):
    """:class:`InPlaceABN` with the statistics of the joined batch of all processes of a group.

    Batches may differ in size, and one may be empty. Without a process group, or with one process, it is an
    :class:`InPlaceABN`; so models with it run unchanged on one device. It works with any process group, also on
    CPUs (gloo).

    Args:
        num_features: This and the other arguments are those of :class:`InPlaceABN`.
        group: Process group to synchronize with; ``None`` for all processes. A copy shares it, a pickle omits it.
    """

    def __init__(self,
                 num_features: int,
                 eps: float = 1e-5,
                 momentum: Optional[float] = 0.1,
                 affine: bool = True,
                 track_running_stats: bool = True,
                 activation: str = 'leaky_relu',
                 activation_param: Optional[float] = None,
                 group: Any = None,
                 backend: str = 'auto',
                 device=None,
                 dtype=None):
        super().__init__(num_features, eps, momentum, affine, track_running_stats, activation, activation_param,
                         backend, device, dtype)
        self.group = group

    def _group(self) -> Tuple[bool, Any]:
        return True, self.group

    def __deepcopy__(self, memo):
        memo[id(self.group)] = self.group
        new = self.__class__.__new__(self.__class__)
        memo[id(self)] = new
        new.__dict__ = copy.deepcopy(self.__dict__, memo)
        return new

    def __getstate__(self):
        return {**self.__dict__, 'group': None}
