"""The activations, each with its inverse and with its derivative taken from its output."""
from abc import ABC, abstractmethod
from functools import lru_cache
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from mmrev.compat import backward_into

aten = torch.ops.aten


class Activation(ABC):
    """One activation ``z = act(y)``.

    Attributes:
        name: As in configs.
        param: Slope of ``leaky_relu`` or alpha of ``elu``, as the user gave it or by default.
        invertible: Whether ``y`` follows from ``z``.
        keeps_values: Whether ``z`` is ``y`` wherever the derivative is not 0.
    """
    name: str
    default_param = 0.01
    invertible = True
    keeps_values = False

    def __init__(self, param: Optional[float] = None):
        self.param = self.default_param if param is None else param

    def check(self, dtype: torch.dtype) -> None:
        """Raise ``ValueError`` if the inverse would leave the range of ``dtype``."""

    @abstractmethod
    def apply(self, y: Tensor, inplace: bool = False) -> Tensor:
        """``z``."""

    @abstractmethod
    def invert(self, z: Tensor, out: Tensor) -> Tensor:
        """Write ``y`` into ``out``."""

    @abstractmethod
    def differentiate(self, dz: Tensor, z: Tensor, out: Tensor) -> Tensor:
        """Write the gradient of ``y`` into ``out``."""

    def __str__(self) -> str:
        return f'{self.name}({self.param:g})'


class Identity(Activation):
    name = 'identity'
    keeps_values = True

    def apply(self, y, inplace=False):
        return y

    def invert(self, z, out):
        return out.copy_(z)

    def differentiate(self, dz, z, out):
        return out.copy_(dz)

    def __str__(self):
        return self.name


class ReLU(Identity):
    """Not invertible; but where the output is 0, so is the gradient, and elsewhere it is the identity."""
    name = 'relu'
    invertible = False

    def apply(self, y, inplace=False):
        return F.relu(y, inplace)

    def differentiate(self, dz, z, out):
        return backward_into(aten.threshold_backward.grad_input, dz, z, 0, grad_input=out)


class LeakyReLU(Activation):
    name = 'leaky_relu'

    def __init__(self, param=None):
        super().__init__(param)
        if not 0 < self.param < float('inf'):
            raise ValueError('the slope of `leaky_relu`, `activation_param`, must be positive, or the activation has '
                             f'no inverse; got {self.param}')

    def check(self, dtype):
        # A smaller slope takes negative values below the smallest number of the type, and its inverse overflows.
        if self.param < torch.finfo(dtype).tiny:
            raise ValueError(f'a `leaky_relu` of slope {self.param} cannot be inverted in {dtype}; the slope must be '
                             f'at least {torch.finfo(dtype).tiny:.2g}')

    def apply(self, y, inplace=False):
        return F.leaky_relu(y, self.param, inplace)

    def invert(self, z, out):
        return aten.leaky_relu.out(z, 1 / self.param, out=out)

    def differentiate(self, dz, z, out):
        return backward_into(aten.leaky_relu_backward.grad_input, dz, z, self.param, True, grad_input=out)


class ELU(Activation):
    """Saturates: the closer the output is to ``-alpha``, the less it determines ``y``.

    The error of the recovered ``y`` is that of the output's type, divided by ``1 + z / alpha = exp(y)``. What the type
    rounds to ``-alpha`` is recovered as the last value before it (-17 in float32, -8 in float16). With batch
    statistics the gradient of that one input is then coarse; sums and other inputs are not affected, because the
    gradient of ``y`` has the factor ``exp(y)``.
    """
    name = 'elu'
    default_param = 1.

    def __init__(self, param=None):
        super().__init__(param)
        if not 0 < self.param < float('inf'):
            raise ValueError('the alpha of `elu`, `activation_param`, must be positive, or the activation has no '
                             f'inverse; got {self.param}')

    def apply(self, y, inplace=False):
        return F.elu(y, self.param, inplace)

    def invert(self, z, out):
        negative = z.clamp(max=0).div_(self.param)
        negative.clamp_(min=-1 + torch.finfo(z.dtype).eps / 2).log1p_()
        return torch.clamp(z, min=0, out=out).add_(negative)

    def differentiate(self, dz, z, out):
        return backward_into(aten.elu_backward.grad_input, dz, self.param, 1, 1, True, z, grad_input=out)


_ACTIVATIONS = {kind.name: kind for kind in (LeakyReLU, ELU, Identity, ReLU)}


@lru_cache(maxsize=None)
def get_activation(name: str, param: Optional[float] = None) -> Activation:
    """The activation of that name.

    Args:
        name: ``leaky_relu``, ``elu``, ``identity`` or ``relu``.
        param: Slope of ``leaky_relu`` (0.01) or alpha of ``elu`` (1).

    Raises:
        ValueError: If the name is unknown, or the activation has no inverse with that parameter.
    """
    if name not in _ACTIVATIONS:
        raise ValueError(f'`activation` must be one of {", ".join(map(repr, _ACTIVATIONS))}; got {name!r}')
    return _ACTIVATIONS[name](param)
