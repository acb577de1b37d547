"""The simple feature pyramid of ViTDet (Li et al. 2022, arXiv:2203.16527, section 3 and appendix A.2)."""
from typing import List, Optional, Sequence, Tuple, Union

import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmrev.registry import MODELS

_NORM = dict(type='mmpretrain.LN2d', eps=1e-6)


@MODELS.register_module()
class SimpleFeaturePyramid(BaseModule):
    """A pyramid from only the last map of a plain backbone, without a top-down path.

    Each level is the map resized by (transposed) convolutions or max pooling, then a 1x1 and a 3x3 convolution, each
    with a norm.

    Args:
        in_channels: Channels of the map, as a sequence of one.
        out_channels: Channels of each output level.
        scales: Of each level's sides, relative to the map's: 4, 2, 1 or 0.5.
        num_outs: Output levels; those beyond ``scales`` halve the last one by taking every second point.
        norm_cfg: Norm of the convolutions; None for a bias instead, which learns faster from random weights.
        init_cfg: Initialization.

    Shape:
        Input: a sequence of one ``(B, in_channels[0], H, W)``.
        Output: a tuple of ``(B, out_channels, H * scales[i], W * scales[i])``, and of halves.

    Raises:
        ValueError: If there is more than one map, or a scale is not one of those.
    """

    def __init__(self,
                 in_channels: Sequence[int],
                 out_channels: int = 256,
                 scales: Sequence[float] = (4, 2, 1, 0.5),
                 num_outs: int = 5,
                 norm_cfg: Optional[dict] = _NORM,
                 init_cfg: Union[dict, List[dict], None] = None):
        super().__init__(init_cfg or [
            dict(type='TruncNormal', layer='ConvTranspose2d', std=0.02), dict(type='Caffe2Xavier', layer='Conv2d')])
        if len(in_channels) != 1:
            raise ValueError(f'`in_channels` must hold the channels of one map, got {in_channels}')
        if any(scale not in (4, 2, 1, 0.5) for scale in scales):
            raise ValueError(f'`scales` must be of 4, 2, 1 and 0.5, got {scales}')
        if num_outs < len(scales):
            raise ValueError(f'`num_outs` must be at least the {len(scales)} of `scales`, got {num_outs}')
        self.in_channels, self.out_channels, self.num_outs = list(in_channels), out_channels, num_outs
        self.norm_cfg = norm_cfg
        self.levels = nn.ModuleList(self._level(in_channels[0], scale) for scale in scales)

    def _level(self, c: int, scale: float) -> nn.Sequential:
        resize, out = {
            4: ([nn.ConvTranspose2d(c, c // 2, 2, 2), self._norm(c // 2), nn.GELU(),
                 nn.ConvTranspose2d(c // 2, c // 4, 2, 2)], c // 4),
            2: ([nn.ConvTranspose2d(c, c // 2, 2, 2)], c // 2),
            1: ([], c),
            0.5: ([nn.MaxPool2d(2, 2)], c),
        }[scale]
        bias = self.norm_cfg is None
        return nn.Sequential(
            *resize, nn.Conv2d(out, self.out_channels, 1, bias=bias), self._norm(self.out_channels),
            nn.Conv2d(self.out_channels, self.out_channels, 3, padding=1, bias=bias), self._norm(self.out_channels))

    def _norm(self, channels: int) -> nn.Module:
        return nn.Identity() if self.norm_cfg is None else build_norm_layer(self.norm_cfg, channels)[1]

    def forward(self, inputs: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        if len(inputs) != 1:
            raise ValueError(f'the pyramid is made of one map, got {len(inputs)}; give the backbone one `out_indices`')
        outputs = [level(inputs[0]) for level in self.levels]
        while len(outputs) < self.num_outs:
            outputs.append(F.max_pool2d(outputs[-1], 1, stride=2))
        return tuple(outputs)
