"""Forward of residual blocks of the ResNet family with activated norms."""
from functools import lru_cache
from typing import List, Type

import torch.utils.checkpoint
from torch import Tensor, nn


class ResidualBlock:
    """Forward of a ``BasicBlock`` or ``Bottleneck`` whose norms include their activations.

    :func:`activated_class` puts it in front of the block's own class. The last norm adds the shortcut and activates the
    sum. If a plugin or an active drop path lies between the norm and the sum, that norm has no activation, and the
    block applies its own to the sum. The second convolution may have no norm (ResNeSt), or be several (Res2Net).
    """

    def forward(self, x: Tensor) -> Tensor:
        if getattr(self, 'with_cp', False) and x.requires_grad:
            return torch.utils.checkpoint.checkpoint(self._forward, x, use_reentrant=False)
        return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        *inner, last = range(1, depth(self) + 1)
        out = x
        for i in inner:
            if i == 2 and hasattr(self, 'bns'):
                out = self._scales(out)
            else:
                out = getattr(self, norm_name(self, i), nn.Identity())(getattr(self, f'conv{i}')(out))
            out = self._plugged(out, i)
        shortcut = x if self.downsample is None else self.downsample(x)
        out = getattr(self, f'conv{last}')(out)
        norm = getattr(self, norm_name(self, last))
        if joins_shortcut(self):
            return norm(out, residual=shortcut)
        out = self._plugged(norm(out), last)
        return self.relu(getattr(self, 'drop_path', nn.Identity())(out) + shortcut)

    def _scales(self, x: Tensor) -> Tensor:
        """Res2Net: each group of channels passes a convolution, which also gets the result of the group before it."""
        *groups, last = x.split(self.width, 1)
        results: List[Tensor] = []
        for group, conv, norm in zip(groups, self.convs, self.bns):
            alone = not results or self.stage_type == 'stage'
            results.append(norm(conv(group if alone else results[-1] + group)))
        return torch.cat([*results, self.pool(last) if hasattr(self, 'pool') else last], 1)

    def _plugged(self, x: Tensor, i: int) -> Tensor:
        for name in plugins(self, i):
            x = getattr(self, name)(x)
        return x

    def __reduce__(self):  # pickle finds the class, which is created at run time, by the class that it extends
        return _new, (plain_class(type(self)), ), self.__dict__


@lru_cache(maxsize=None)
def activated_class(kind: Type[nn.Module]) -> Type[nn.Module]:
    """The class of a block of ``kind`` with activated norms."""
    return type(f'Activated{kind.__name__}', (ResidualBlock, kind), {'__module__': kind.__module__})


def plain_class(kind: Type[nn.Module]) -> Type[nn.Module]:
    """The inverse of :func:`activated_class`."""
    return kind.__bases__[1]


def _new(kind: Type[nn.Module]) -> nn.Module:
    return nn.Module.__new__(activated_class(kind))


def depth(block: nn.Module) -> int:
    """Number of convolutions of the block."""
    return 3 if hasattr(block, 'conv3') else 2


def norm_name(owner: nn.Module, i: int) -> str:
    """Name of the norm after the i-th convolution in OpenMMLab's packages and torchvision."""
    return getattr(owner, f'norm{i}_name', f'bn{i}')


def plugins(block: nn.Module, i: int) -> List[str]:
    """Names of the modules after the i-th norm: ResNeSt's pooling, mmdet's plugins, squeeze and excitation."""
    found = ['avd_layer'] if i == 2 and getattr(block, 'avg_down_stride', False) else []
    if getattr(block, 'with_plugins', False):
        found += getattr(block, f'after_conv{i}_plugin_names')
    return found + (['se_layer'] if i == depth(block) and hasattr(block, 'se_layer') else [])


def joins_shortcut(block: nn.Module) -> bool:
    """Whether the shortcut is added right after the last norm."""
    return isinstance(getattr(block, 'drop_path', None), (nn.Identity, type(None))) and not plugins(block, depth(block))
