"""RevBiFPN: The Fully Reversible Bidirectional Feature Pyramid Network (Chiley et al. 2022, arXiv:2206.14098).

From the space-to-depth stem on, the network is a list of additive steps: two-stream blocks on every pyramid level
(section 3.2), then a RevSilo that fuses the levels and may begin a coarser one (section 3.1), stage after stage.

Deviations from the published implementation: batch statistics are updated once per training step, not twice; an input
whose sides are not multiples of the coarsest stride is padded.
"""
from itertools import product
from typing import Dict, List, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmrev.registry import MODELS
from mmrev.reversible import (AdditiveStep, Coupling, Keep, ReversibleSequence, RevSilo, StreamPart, TwoStreamCoupling,
                              unread)

from ..backbone import Backbone
from ..blocks import MBConv


class RevBiFPNStage(Coupling):
    """Blocks on every level, then the fusion of all levels; with ``new_channels`` it creates a coarser level.

    Args:
        channels: Channels of the input levels, fine to coarse; even.
        new_channels: Channels of the new level, or None.
        num_blocks: Two-stream blocks on each level before the fusion.
        kernel_sizes: Depthwise kernel of the blocks on each level.
        up_kernel_sizes: Depthwise kernel of the functions from each level to finer ones.
        expand_ratios: MBConv expansion on each level; functions to finer levels use that of their target.
        se_ratios: Squeeze-excite ratio on each level; functions to finer levels use that of their target.
        drop_path_rate: Stochastic depth of every function, except those that create a level.
    """

    def __init__(self,
                 channels: Sequence[int],
                 new_channels: Optional[int],
                 num_blocks: int,
                 kernel_sizes: Sequence[int],
                 up_kernel_sizes: Sequence[int],
                 expand_ratios: Sequence[float],
                 se_ratios: Sequence[float],
                 drop_path_rate: float,
                 norm_cfg: dict,
                 act_cfg: Optional[dict]):
        super().__init__()
        self.channels = list(channels) + ([new_channels] if new_channels else [])
        self.num_inputs = len(channels)
        self.kernel_sizes, self.up_kernel_sizes = kernel_sizes, up_kernel_sizes
        self.expand_ratios, self.se_ratios = expand_ratios, se_ratios
        self.drop_path_rate = drop_path_rate
        self.cfgs = dict(norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.blocks = nn.ModuleList(
            nn.ModuleList(self._block(level) for level in range(self.num_inputs)) for _ in range(num_blocks))
        self.silo = self._silo()
        self.unread: List[nn.Module] = []  # functions that are left out, see `RevBiFPN._leave_out_unread`

    def steps(self) -> List[AdditiveStep]:
        blocks = [step for row in self.blocks for block in row for step in block.steps()]
        return [step for step in blocks + self.silo.steps() if all(step.f is not f for f in self.unread)]

    def begins(self) -> List[nn.Module]:
        """The functions whose sum is the new level; empty without a new level."""
        return [f for pair, f in self.silo.down.items() if int(pair.split('_')[1]) == self.num_inputs]

    def _block(self, level: int) -> TwoStreamCoupling:
        """RevNet block on the two halves of a level's channels."""
        channels = self.channels[level]
        half = channels // 2
        f, g = (
            MBConv(half, half, self.kernel_sizes[level], 1, self.expand_ratios[level], self.se_ratios[level],
                   self.drop_path_rate, **self.cfgs) for _ in range(2))
        return TwoStreamCoupling(f, g, (StreamPart(level, half, channels), StreamPart(level, 0, half)))

    def _silo(self) -> RevSilo:
        levels = range(len(self.channels))
        pairs = list(product(levels, levels))
        return RevSilo({(i, j): self._down(i, j) for i, j in pairs if i < j},
                       {(i, j): self._up(i, j) for i, j in pairs if i > j}, self.num_inputs)

    def _down(self, i: int, j: int) -> MBConv:
        stride = 2**(j - i)
        begins = j == self.num_inputs
        return MBConv(self.channels[i], self.channels[j], 2 * stride - 1, stride, self.expand_ratios[i],
                      self.se_ratios[i], 0. if begins else self.drop_path_rate, **self.cfgs)

    def _up(self, i: int, j: int) -> nn.Sequential:
        conv = MBConv(self.channels[i], self.channels[j], self.up_kernel_sizes[i], 1, self.expand_ratios[j],
                      self.se_ratios[j], self.drop_path_rate, **self.cfgs)
        return nn.Sequential(conv, nn.Upsample(scale_factor=2**(i - j), mode='bilinear'))


@MODELS.register_module()
class RevBiFPN(Backbone):
    """Backbone and feature pyramid in one, whose training memory does not grow with depth.

    Args:
        arch: ``'s0'`` ... ``'s6'``, or a dict with the keys of :attr:`arch_zoo`'s entries; ``channels`` (per level,
            fine to coarse, even, the first a multiple of 16) and ``num_extra_stages`` are required.
        in_channels: Channels of the image.
        out_indices: Levels to return, of 0 (stride 4) ... 3 (stride 32), or backwards from -1, the coarsest. Functions
            that none of them needs are not computed, and their weights are frozen.
        frozen_stages: Stages 1 ... ``frozen_stages`` get no gradient and stay in eval mode; 0 and -1 freeze nothing,
            because the stem has no weights. There is one stage per level after the first, and the extra stages.
        norm_eval: Freeze the statistics of batch norms in training; None freezes them if ``init_cfg`` names weights.
        norm_cfg: Norm of every convolution.
        act_cfg: Activation of every convolution except the projections; None if the norm includes one.
        reversible: False trains under plain autograd, with the same weights and results.
        cache_every: Store the levels before every ``cache_every``-th stage, see
            :class:`~mmrev.reversible.ReversibleSequence`.
        overlap: In backward, recompute a step while the gradient of the following step is computed, see
            :class:`~mmrev.reversible.ReversibleSequence`.
        keep: What each step stores for the backward: ``'undo'`` (nothing), ``'state'`` or ``'graph'``, for all or by a
            list, see :class:`~mmrev.reversible.ReversibleSequence`.
        drop_path_rate: Stochastic depth of the last stage, growing linearly from the first; None is ``arch``'s.
        zero_init_residual: Initialize the scale of the last norm of every function that adds to a level to zero. The
            levels, which are not normalized, then start as the outputs of the stem and the first downsamplings.
        init_cfg: Initialization.

    Shape:
        Input: ``(B, in_channels, H, W)``; zeros are appended at the right and at the bottom up to multiples of 32, the
        coarsest stride. With ``pad_size_divisor=32`` in the data preprocessor, nothing is appended.
        Output: a tuple of ``(B, channels[i], H / 4 / 2**i, W / 4 / 2**i)`` for ``i`` in ``out_indices``.

    Attributes:
        channels: Channels of the levels that are returned.
        level_channels: Channels of all levels.

    Raises:
        ValueError: For an unknown ``arch``, or indices out of range.

    Source: sections 3 and 4 of the paper; the sizes are those of its published code.
    """

    arch_zoo: Dict[str, dict] = {
        's0': dict(channels=(48, 64, 80, 160), num_extra_stages=2, drop_path_rate=0.),
        's1': dict(channels=(64, 80, 96, 208), num_extra_stages=2, drop_path_rate=0.),
        's2': dict(channels=(96, 128, 160, 320), num_extra_stages=2, drop_path_rate=0.),
        's3': dict(channels=(128, 160, 208, 416), num_extra_stages=3, drop_path_rate=0.05),
        's4': dict(channels=(192, 256, 320, 640), num_extra_stages=4, drop_path_rate=0.1),
        's5': dict(channels=(256, 336, 416, 848), num_extra_stages=4, drop_path_rate=0.1),
        's6': dict(channels=(320, 416, 528, 1056), num_extra_stages=5, drop_path_rate=0.3),
    }
    arch_defaults = dict(
        num_blocks=2,
        kernel_sizes=(3, 5, 5, 5),
        up_kernel_sizes=(3, 3, 3, 5),
        expand_ratios=(1, 1, 2, 2),
        se_ratios=(0.25, 0.25, 0.125, 0.),
        drop_path_rate=0.)
    default_init = MBConv.default_init_cfg
    stem_stride = 4

    def __init__(self,
                 arch: Union[str, dict] = 's0',
                 in_channels: int = 3,
                 out_indices: Sequence[int] = (0, 1, 2, 3),
                 frozen_stages: int = -1,
                 norm_eval: Optional[bool] = False,
                 norm_cfg: Optional[dict] = None,
                 act_cfg: Union[dict, None, str] = 'default',
                 reversible: bool = True,
                 cache_every: Optional[int] = None,
                 overlap: bool = False,
                 keep: Keep = None,
                 drop_path_rate: Optional[float] = None,
                 zero_init_residual: bool = True,
                 init_cfg: Union[dict, List[dict], None] = None):
        arch = self._resolve_arch(arch)
        super().__init__(len(arch['channels']), out_indices, frozen_stages, norm_eval, init_cfg)
        self.level_channels = tuple(arch.pop('channels'))
        self.in_channels = in_channels
        self.zero_init_residual = zero_init_residual
        self._check_image()
        self.size_divisor = self.stem_stride * 2**(len(self.level_channels) - 1)
        extra = arch.pop('num_extra_stages')
        max_drop = arch.pop('drop_path_rate') if drop_path_rate is None else drop_path_rate
        arch.pop('drop_path_rate', None)
        arch.update(MBConv.default_cfgs(norm_cfg, act_cfg))
        begins = [1 + i for i in range(len(self.level_channels) - 1)]  # levels that begin, stage by stage
        num_stages = len(begins) + extra
        self.stages = ReversibleSequence([
            RevBiFPNStage(
                self.level_channels[:begins[k]] if k < len(begins) else self.level_channels,
                self.level_channels[begins[k]] if k < len(begins) else None,
                drop_path_rate=max_drop * (k + 1) / num_stages,
                **arch) for k in range(num_stages)
        ], reversible, cache_every, overlap, keep)
        self.channels = tuple(self.level_channels[i] for i in self.out_indices)
        self._leave_out_unread()
        self._freeze_stages()

    @classmethod
    def _resolve_arch(cls, arch: Union[str, dict]) -> dict:
        arch = super()._resolve_arch(arch)
        channels = arch['channels']
        if not isinstance(channels, Sequence) or len(channels) < 2:
            raise ValueError(f'`channels` must be a list of the channels of at least two levels, got {channels!r}')
        if channels[0] % cls.stem_stride**2 or any(c % 2 for c in channels):
            raise ValueError(f'`channels` must be even and begin with a multiple of 16, got {tuple(channels)}')
        if arch['num_extra_stages'] < 0:
            raise ValueError(f'`num_extra_stages` must not be negative, got {arch["num_extra_stages"]}')
        if arch['num_blocks'] < 0:
            raise ValueError(f'`num_blocks` must not be negative, got {arch["num_blocks"]}')
        even = [k for key in ('kernel_sizes', 'up_kernel_sizes') for k in arch[key] if k % 2 == 0]
        if even:
            raise ValueError(f'`kernel_sizes` and `up_kernel_sizes` must be odd, got {even[0]}')
        for key in ('kernel_sizes', 'up_kernel_sizes', 'expand_ratios', 'se_ratios'):
            if len(arch[key]) < len(channels):
                raise ValueError(f'`{key}` must have an entry for each of the {len(channels)} levels, got {arch[key]}')
        return arch

    def _check_image(self) -> None:
        fit = self.level_channels[0] // self.stem_stride**2
        if not 1 <= self.in_channels <= fit:
            raise ValueError(f'`in_channels` must lie in [1, {fit}], what fits into the first level, got '
                             f'{self.in_channels}')

    def _leave_out_unread(self) -> None:
        """Leave out the last additions to levels that are not returned: no later step reads them.

        Their weights would get no gradient, for which ``DistributedDataParallel`` stops.
        """
        functions = unread([step for stage in self.stages.couplings for step in stage.steps()], self.out_indices)
        for stage in self.stages.couplings:
            stage.unread = [f.requires_grad_(False) for f in functions]

    def _init_parameters(self) -> None:
        if not self.zero_init_residual:
            return
        first = {id(f) for stage in self.stages.couplings for f in stage.begins()}
        for block in self.modules():
            if isinstance(block, MBConv) and id(block) not in first:
                if getattr(block.project_conv.norm, 'weight', None) is not None:  # a norm may have none
                    nn.init.zeros_(block.project_conv.norm.weight)

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        levels = self.stages(self._stem(x))
        return tuple(levels[i] for i in self.out_indices)

    def _stem(self, x: Tensor) -> Tensor:
        """Space to depth by 4; the image's channels are repeated until they fill the first level."""
        pad_h, pad_w = (-x.shape[2] % self.size_divisor, -x.shape[3] % self.size_divisor)
        if pad_h or pad_w:
            x = F.pad(x, (0, pad_w, 0, pad_h))
        if x.shape[1] != self.in_channels:
            raise ValueError(f'the image must have `in_channels` = {self.in_channels} channels, got {x.shape[1]}')
        s, c = self.stem_stride, self.level_channels[0] // self.stem_stride**2
        x = torch.cat([x] * (c // self.in_channels) + [x[:, :c % self.in_channels]], dim=1)
        b, _, h, w = x.shape
        x = x.reshape(b, c, h // s, s, w // s, s).permute(0, 3, 5, 1, 2, 4)  # (B, s, s, c, H / s, W / s)
        return x.reshape(b, s * s * c, h // s, w // s)

    def _stages(self) -> List[List[nn.Module]]:
        return [[], *([stage] for stage in self.stages.couplings)]
