"""PyTorch's batch norm and an activation, with the interface of the activated batch norms."""
from typing import Optional

from torch import Tensor, nn

from .activations import get_activation

_MODULES = {  # in place, because they overwrite only the output of the norm, or the sum
    'leaky_relu': lambda slope: nn.LeakyReLU(slope, inplace=True),
    'elu': lambda alpha: nn.ELU(alpha, inplace=True),
    'relu': lambda _: nn.ReLU(inplace=True),
    'identity': lambda _: nn.Identity(),
}


class _BatchNorm(nn.BatchNorm2d):
    """A batch norm for inputs of any number of dimensions, like the other layers."""

    def _check_input_dim(self, x: Tensor) -> None:
        pass


class BatchNormAct(nn.Module):
    """``act(batch_norm(x) + residual)`` with the weight itself, of either sign: the "Std-BN" of arXiv:1712.02616.

    :class:`ABN` scales by ``|weight| + eps`` instead, so weights trained with one are not valid for the other. Both the
    norm's input and the output are stored for backward. It consists of PyTorch's own modules, for any exporter.

    The batch norm is a child, so tools that replace or fuse batch norms (``convert_sync_batchnorm``, ``fuse_conv_bn``)
    keep the activation. A state dict of an :class:`ABN`, without the child's name, loads as well.

    Args:
        num_features: Channels ``C``.
        eps: Added to the variance.
        momentum: Weight of the batch in the running statistics; ``None`` for a cumulative average.
        affine: Whether there are weight and bias.
        track_running_stats: Whether there are running statistics.
        activation: ``leaky_relu``, ``elu``, ``identity`` or ``relu``.
        activation_param: Slope of ``leaky_relu`` (by default 0.01) or alpha of ``elu`` (1).

    Shape:
        ``(B, C)``, ``(B, C, L)``, ``(B, C, H, W)`` or ``(B, C, D, H, W)``; ``residual``, if given, and output: the
        same.

    Raises:
        ValueError: For an unknown activation.
    """
    _abbr_ = 'bn'

    def __init__(self,
                 num_features: int,
                 eps: float = 1e-5,
                 momentum: Optional[float] = 0.1,
                 affine: bool = True,
                 track_running_stats: bool = True,
                 activation: str = 'leaky_relu',
                 activation_param: Optional[float] = None):
        super().__init__()
        self.norm = _BatchNorm(num_features, eps, momentum, affine, track_running_stats)
        self.activation = activation
        self.activation_param = get_activation(activation, activation_param).param
        self.act = _MODULES[activation](self.activation_param)

    def forward(self, x: Tensor, residual: Optional[Tensor] = None) -> Tensor:
        y = self.norm(x)
        if residual is not None:
            y = y + residual
        return self.act(y)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        for name in ('weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked'):
            if f'{prefix}{name}' in state_dict:
                state_dict[f'{prefix}norm.{name}'] = state_dict.pop(f'{prefix}{name}')
        super()._load_from_state_dict(state_dict, prefix, *args)
