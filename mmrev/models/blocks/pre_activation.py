"""Networks of residual blocks with identity mappings (He et al. 2016, arXiv:1603.05027)."""
from typing import List, NamedTuple, Sequence, Tuple

from torch import Tensor, nn

from mmrev.layers import max_pool3x3

from .activated_backbone import ActivatedBackbone, activated_norm


class IdentityResidualBlock(nn.Module):
    """``x + conv(norm(conv(norm(x))))``: norm and activation come before each convolution, nothing after the sum.

    With a projection the shortcut is a convolution of the activated input instead.

    Args:
        in_channels: Channels of the input.
        channels: Of each convolution: two for 3x3 and 3x3, three for 1x1, 3x3 and 1x1.
        stride: Of the first convolution and the projection.
        dilation: Of the 3x3 convolutions.
        groups: Of the 3x3 convolution between two 1x1.
        dropout: Probability that a channel is zeroed before the last convolution.
        begins: The block begins a stage: its input is already activated, so it has no first norm, and it projects the
            shortcut.
        norm_cfg: Norm with activation.

    Shape:
        Input: ``(B, in_channels, H, W)``; output: ``(B, channels[-1], H / stride, W / stride)``.
    """

    def __init__(self, in_channels: int, channels: Sequence[int], stride: int, dilation: int, groups: int,
                 dropout: float, begins: bool, norm_cfg: dict):
        super().__init__()
        self.bn1 = None if begins else activated_norm(norm_cfg, in_channels)
        if len(channels) == 2:
            kernels = [dict(kernel_size=3, dilation=dilation, padding=dilation)] * 2
        else:
            kernels = [dict(kernel_size=1),
                       dict(kernel_size=3, dilation=dilation, padding=dilation, groups=groups), dict(kernel_size=1)]
        self.residual = nn.Sequential()
        before = in_channels
        for i, (after, kernel) in enumerate(zip(channels, kernels), 1):
            if i > 1:
                self.residual.add_module(f'bn{i}', activated_norm(norm_cfg, before))
            if i == len(channels) and dropout:
                self.residual.add_module('dropout', nn.Dropout2d(dropout))
            conv = nn.Conv2d(before, after, stride=stride if i == 1 else 1, bias=False, **kernel)
            self.residual.add_module(f'conv{i}', conv)
            before = after
        self.projection = nn.Conv2d(in_channels, channels[-1], 1, stride, bias=False) if begins else None

    def forward(self, x: Tensor) -> Tensor:
        z = x if self.bn1 is None else self.bn1(x)
        shortcut = x if self.projection is None else self.projection(z)
        return self.residual(z) + shortcut


class Stage(NamedTuple):
    """Residual blocks at one resolution; see :class:`IdentityResidualBlock`."""
    num_blocks: int
    channels: Tuple[int, ...]
    stride: int = 1  # of the first block
    dilation: int = 1
    groups: int = 1
    dropout: float = 0.
    pool: bool = False  # max pooling of stride 2 comes first


class PreActivationBackbone(ActivatedBackbone):
    """A stem, then stages of blocks with identity mappings.

    ``norms[i]`` activates the input of stage ``i``, the last one the output of the network. The output of a stage is
    returned after that activation, which is stored for backward anyway. If max pooling comes between the two, the plain
    sum is returned.

    A subclass calls :meth:`_build` after the constructor.
    """

    def _build(self, stem: nn.Module, stem_channels: int, stages: Sequence[Stage]) -> None:
        self.stem = stem
        self.pools = tuple(i for i, stage in enumerate(stages) if stage.pool)
        channels = [stem_channels, *(stage.channels[-1] for stage in stages)]
        self.norms = nn.ModuleList(activated_norm(self.norm_cfg, c) for c in channels)
        self.stages = nn.ModuleList(self._stage(c, stage) for c, stage in zip(channels, stages))
        self._finish(channels[1:])

    def _stage(self, in_channels: int, stage: Stage) -> nn.Sequential:
        common = dict(channels=stage.channels, dilation=stage.dilation, groups=stage.groups, dropout=stage.dropout,
                      norm_cfg=self.norm_cfg)
        first = IdentityResidualBlock(in_channels, stride=stage.stride, begins=True, **common)
        others = (IdentityResidualBlock(stage.channels[-1], stride=1, begins=False, **common)
                  for _ in range(1, stage.num_blocks))
        return nn.Sequential(first, *others)

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        x = self.stem(x)
        levels: List[Tensor] = []  # the stem's output first
        for i, stage in enumerate(self.stages):
            pooled = i in self.pools
            z = self.norms[i](max_pool3x3(x, stride=2) if pooled else x)
            levels.append(x if pooled else z)
            x = stage(z)
        levels.append(self.norms[-1](x))
        return tuple(levels[1 + i] for i in self.out_indices)

    def _stages(self) -> List[List[nn.Module]]:
        return [[self.stem, self.norms[0]], *([stage, norm] for stage, norm in zip(self.stages, self.norms[1:]))]
