"""HRFPN (Sun et al. 2019, arXiv:1904.04514) without the full-resolution concatenation of all levels.

A 1x1 convolution of a concatenation is the sum of 1x1 convolutions of its parts, and it commutes with bilinear
upsampling, whose weights at each point sum to one. So each level is convolved at its own resolution, which is cheaper,
and added to the finest one. The backward needs only the levels, which exist anyway.
"""
from typing import List, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmrev.registry import MODELS


@MODELS.register_module()
class HRFPN(BaseModule):
    """mmdet's neck of the same name with less memory: the same arguments, function and state dict.

    Deviations: `norm_cfg`, which mmdet's class accepts and leaves unused, is used; `with_cp`, which saves nothing there
    because a convolution stores only its input, avoids storing the fused pyramid.

    Args:
        in_channels: Channels of each level, fine to coarse.
        out_channels: Channels of each output level.
        num_outs: Number of output levels.
        pooling_type: How the fused map becomes a pyramid: ``'AVG'`` or ``'MAX'``.
        conv_cfg: Type of the convolutions. A type other than ``torch.nn.Conv2d`` gets the concatenation.
        norm_cfg: Norm after the fusion and after the 3x3 convolutions.
        with_cp: Recompute the fused pyramid in backward instead of storing it.
        stride: Of the 3x3 convolutions.
        init_cfg: Initialization; Caffe2's Xavier if not given.

    Shape:
        Input: a sequence of ``(B, in_channels[i], H / 2**i, W / 2**i)``.
        Output: a tuple of ``(B, out_channels, H / 2**i / stride, W / 2**i / stride)`` for ``i`` in ``range(num_outs)``.

    Raises:
        ValueError: For an unknown `pooling_type`, for `with_cp` with a norm, whose statistics would be updated twice,
            or if the number of input levels is not that of `in_channels`.

    Source: figure 4 (c) of the paper.
    """

    def __init__(self,
                 in_channels: Sequence[int],
                 out_channels: int,
                 num_outs: int = 5,
                 pooling_type: str = 'AVG',
                 conv_cfg: Optional[dict] = None,
                 norm_cfg: Optional[dict] = None,
                 with_cp: bool = False,
                 stride: int = 1,
                 init_cfg: Union[dict, List[dict], None] = None):
        super().__init__(init_cfg or dict(type='Caffe2Xavier', layer='Conv2d'))
        if pooling_type not in ('AVG', 'MAX'):
            raise ValueError(f"`pooling_type` must be 'AVG' or 'MAX', got {pooling_type!r}")
        if with_cp and norm_cfg:
            raise ValueError('`with_cp` computes the fusion twice, which would update the statistics of `norm_cfg` '
                             'twice: give one of them')
        self.in_channels = list(in_channels)
        self.out_channels = out_channels
        self.num_outs = num_outs
        self.pooling_type = pooling_type
        self.with_cp = with_cp
        cfgs = dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=None)
        self.reduction_conv = ConvModule(sum(in_channels), out_channels, 1, **cfgs)
        self.fpn_convs = nn.ModuleList(
            ConvModule(out_channels, out_channels, 3, stride, padding=1, **cfgs) for _ in range(num_outs))

    def forward(self, inputs: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        if len(inputs) != len(self.in_channels):
            raise ValueError(f'`in_channels` has {len(self.in_channels)} levels, got {len(inputs)}')
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(self._forward, *inputs, use_reentrant=False, preserve_rng_state=False)
        return self._forward(*inputs)

    def _forward(self, *inputs: Tensor) -> Tuple[Tensor, ...]:
        levels = self._pool(self._fuse(inputs))
        outputs = [conv(x) for conv, x in zip(self.fpn_convs[::-1], levels[::-1])]  # the finest last: a checkpoint
        return tuple(outputs[::-1])  # stops its second run before the last convolution

    def _fuse(self, inputs: Sequence[Tensor]) -> Tensor:
        """The levels at the finest one's resolution, reduced to ``out_channels``: ``(B, out_channels, H, W)``."""
        conv = self.reduction_conv.conv
        if type(conv) is not nn.Conv2d:  # what a subclass computes may not be linear
            return self.reduction_conv(torch.cat([_upsample(x, 2**i) for i, x in enumerate(inputs)], dim=1))
        weights = conv.weight.split(self.in_channels, dim=1)
        fused = F.conv2d(inputs[0], weights[0], conv.bias)
        for i in range(1, len(inputs)):
            fused += _upsample(F.conv2d(inputs[i], weights[i]), 2**i)  # (B, out_channels, H, W)
        return self.reduction_conv.norm(fused) if self.reduction_conv.with_norm else fused

    def _pool(self, fused: Tensor) -> List[Tensor]:
        """The pyramid of the fused map; a mean of means is the mean of all, of which only a quarter is read again."""
        levels = [fused]
        for i in range(1, self.num_outs):
            if self.pooling_type == 'AVG':
                levels.append(F.avg_pool2d(levels[-1], 2))
            else:  # from the fused map: of equal maxima the first gets the gradient, as in mmdet
                levels.append(F.max_pool2d(fused, 2**i))
        return levels


def _upsample(x: Tensor, factor: int) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode='bilinear') if factor > 1 else x
