"""DeepLabV3's head (Chen et al. 2017, arXiv:1706.05587) with InPlace-ABN (Rota Bulò et al. 2018, arXiv:1712.02616)."""
from typing import List, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from mmrev.registry import MODELS

from ..blocks.activated_backbone import DEFAULT_NORM, activated_norm, xavier_init


@MODELS.register_module()
class InPlaceABNDeepLabHead(BaseDecodeHead):
    """Atrous spatial pyramid pooling whose image-level branch is added, not concatenated.

    ``norm(reduce(map_norm([conv_1x1(x), conv_d(x), ...])) + pool_reduce(pool_norm(pool_conv(pool(x)))))``, then the
    classifier. In training ``pool`` is the mean over the whole map; in evaluation, where images are larger than the
    crops of training, a moving average over a window as large as a crop, padded by replication.

    Args:
        in_channels: Channels of the map.
        channels: Channels before the classifier.
        num_classes: Number of classes.
        hidden_channels: Channels of each parallel convolution and of the pooled branch.
        dilations: Dilations of the 3x3 convolutions, which are parallel to the 1x1 convolution.
        pooling_size: Height and width of the window in evaluation, in points of the map; None for the whole map.
        norm_cfg: Norm with activation: ``mmrev.InPlaceABN``, ``mmrev.InPlaceABNSync``, ``mmrev.ABN`` or
            ``mmrev.BatchNormAct``; None for InPlace-ABN with a leaky ReLU of slope 0.01. In training the pooled branch
            has one value per image and channel, so a batch of one image per process needs the synchronized one.
        dropout_ratio: Before the classifier; none as published.
        init_cfg: Initialization; by default Xavier's, normal, with the gain of the activation, as published.
        **kwargs: See :class:`mmseg.models.decode_heads.decode_head.BaseDecodeHead`.

    Shape:
        Input: a sequence of maps, of which ``in_index`` chooses one, ``(B, in_channels, H, W)``.
        Output: ``(B, num_classes, H, W)``.
    """

    def __init__(self,
                 in_channels: int,
                 channels: int = 256,
                 *,
                 num_classes: int,
                 hidden_channels: int = 256,
                 dilations: Sequence[int] = (12, 24, 36),
                 pooling_size: Optional[Tuple[int, int]] = (84, 84),
                 norm_cfg: Optional[dict] = None,
                 dropout_ratio: float = 0.,
                 init_cfg: Union[dict, List[dict], None] = None,
                 **kwargs):
        norm_cfg = dict(DEFAULT_NORM if norm_cfg is None else norm_cfg)
        super().__init__(in_channels, channels, num_classes=num_classes, norm_cfg=norm_cfg, act_cfg=None,
                         dropout_ratio=dropout_ratio, init_cfg=init_cfg or xavier_init(norm_cfg), **kwargs)
        self.pooling_size = pooling_size
        self.map_convs = nn.ModuleList([nn.Conv2d(in_channels, hidden_channels, 1, bias=False)])
        for d in dilations:
            self.map_convs.append(nn.Conv2d(in_channels, hidden_channels, 3, padding=d, dilation=d, bias=False))
        concatenated = hidden_channels * len(self.map_convs)
        self.map_norm = activated_norm(norm_cfg, concatenated)
        self.reduce_conv = nn.Conv2d(concatenated, channels, 1, bias=False)
        self.pool_conv = nn.Conv2d(in_channels, hidden_channels, 1, bias=False)
        self.pool_norm = activated_norm(norm_cfg, hidden_channels)
        self.pool_reduce_conv = nn.Conv2d(hidden_channels, channels, 1, bias=False)
        self.norm = activated_norm(norm_cfg, channels)

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        x = self._transform_inputs(inputs)
        maps = self.reduce_conv(self.map_norm(torch.cat([conv(x) for conv in self.map_convs], 1)))
        pooled = self.pool_reduce_conv(self.pool_norm(self.pool_conv(self._pool(x))))
        return self.cls_seg(self.norm(maps + pooled))

    def _pool(self, x: Tensor) -> Tensor:
        if self.training or self.pooling_size is None:
            return x.mean((2, 3), keepdim=True)
        height, width = (min(window, side) for window, side in zip(self.pooling_size, x.shape[2:]))
        top, left = (height - 1) // 2, (width - 1) // 2
        padding = (left, width - 1 - left, top, height - 1 - top)
        return F.pad(F.avg_pool2d(x, (height, width), stride=1), padding, mode='replicate')
