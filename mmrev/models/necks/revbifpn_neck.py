"""The neck of RevBiFPN's classifiers (Chiley et al. 2022, arXiv:2206.14098): an MBConv on every level."""
from typing import List, Optional, Sequence, Tuple, Union

from mmengine.model import BaseModule
from torch import Tensor

from mmrev.registry import MODELS
from mmrev.reversible import NewStream, ReversibleSequence

from ..blocks import MBConv


@MODELS.register_module()
class RevBiFPNNeck(BaseModule):
    """One MBConv on every level of the pyramid; it is recomputed in backward.

    Args:
        in_channels: Channels of each level, fine to coarse.
        out_channels: Channels of each output level.
        kernel_size: Depthwise kernel.
        expand_ratios: MBConv expansion on each level.
        se_ratios: Squeeze-excite ratio on each level.
        norm_cfg: Norm of every convolution.
        act_cfg: Activation of every convolution except the projections; None if the norm includes one.
        reversible: False stores every activation for backward, as plain autograd does.
        init_cfg: Initialization.

    Shape:
        Input: a sequence of ``(B, in_channels[i], H_i, W_i)``.
        Output: a tuple of ``(B, out_channels[i], H_i, W_i)``.

    Raises:
        ValueError: If the levels differ in number.
    """

    def __init__(self,
                 in_channels: Sequence[int],
                 out_channels: Sequence[int],
                 kernel_size: int = 5,
                 expand_ratios: Sequence[float] = (1, 2, 2, 2),
                 se_ratios: Sequence[float] = (0.25, 0.25, 0.125, 0.125),
                 norm_cfg: Optional[dict] = None,
                 act_cfg: Union[dict, None, str] = 'default',
                 reversible: bool = True,
                 init_cfg: Union[dict, List[dict], None] = None):
        super().__init__(init_cfg or list(MBConv.default_init_cfg))
        fewest = min(len(out_channels), len(expand_ratios), len(se_ratios))
        if len(in_channels) != len(out_channels) or fewest < len(in_channels):
            raise ValueError('`in_channels`, `out_channels`, `expand_ratios` and `se_ratios` must have an entry for '
                             f'each level, got {in_channels}, {out_channels}, {expand_ratios} and {se_ratios}')
        cfgs = MBConv.default_cfgs(norm_cfg, act_cfg)
        self.num_levels = len(in_channels)
        self.levels = ReversibleSequence([
            NewStream(
                MBConv(in_channels[i], out_channels[i], kernel_size, 1, expand_ratios[i], se_ratios[i], **cfgs),
                self.num_levels + i, (i, )) for i in range(self.num_levels)
        ], reversible)

    def forward(self, inputs: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        if len(inputs) != self.num_levels:
            raise ValueError(f'expected {self.num_levels} levels, as many as `in_channels` has, got {len(inputs)}')
        return self.levels(*inputs)[self.num_levels:]
