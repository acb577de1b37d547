"""Mobile inverted bottleneck with squeeze-and-excitation (MobileNetV3, Howard et al. 2019)."""
from typing import Dict, Optional, Union

import torch.nn as nn
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from torch import Tensor

from mmrev.layers import DropPath, norm_act


class SqueezeExcite(nn.Module):
    """Channel gate ``x * hsigmoid(W2 hswish(W1 mean(x)))`` (Hu et al. 2018 with MobileNetV3's activations).

    Args:
        channels: Channels of the input and the output.
        hidden_channels: Channels between the two 1x1 convolutions.

    Shape:
        Input and output: ``(B, C, H, W)``.
    """

    def __init__(self, channels: int, hidden_channels: int):
        super().__init__()
        self.reduce = nn.Conv2d(channels, hidden_channels, 1)
        self.act = nn.Hardswish()
        self.expand = nn.Conv2d(hidden_channels, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3), keepdim=True)  # (B, C, 1, 1)
        return x * self.gate(self.expand(self.act(self.reduce(pooled))))


class ConvNormAct(ConvModule):
    """mmcv's ``ConvModule`` with norm and activation, if there is one, by :func:`mmrev.layers.norm_act`.

    Shape:
        Input: ``(B, in_channels, H, W)``; output: ``(B, out_channels, H', W')``, by kernel size, stride and padding.
    """

    def forward(self, x: Tensor, activate: bool = True, norm: bool = True) -> Tensor:
        in_order = self.order == ('conv', 'norm', 'act') and self.with_norm
        joined = self.efficient_conv_bn_eval_forward is not None and not self.norm.training  # by mmcv, with the conv
        if not (activate and norm and in_order) or joined:
            return super().forward(x, activate, norm)
        act = self.activate if self.with_activation else None
        return norm_act(super().forward(x, activate=False, norm=False), self.norm, act)


class MBConv(BaseModule):
    """Expand by a 1x1 convolution, filter depthwise, gate, project by a 1x1 convolution; no identity shortcut.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Side of the depthwise kernel; odd.
        stride: Stride of the depthwise convolution.
        expand_ratio: Factor from the input's channels to the depthwise ones; 1 omits the first convolution.
        se_ratio: Factor from the *input's* channels to the gate's hidden ones, as published; 0 omits the gate.
        drop_path_rate: Probability that a sample's output is zeroed in training.

    Shape:
        Input: ``(B, in_channels, H, W)``; output: ``(B, out_channels, ceil(H / stride), ceil(W / stride))``.
    """

    default_init_cfg = (
        dict(type='Kaiming', layer='Conv2d', mode='fan_out', nonlinearity='relu'),
        dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm']),
    )

    @staticmethod
    def default_cfgs(norm_cfg: Optional[dict], act_cfg: Union[dict, None, str]) -> Dict[str, Optional[dict]]:
        """The published norm and activation of RevBiFPN, used unless a model is given others."""
        return dict(
            norm_cfg=norm_cfg or dict(type='BN', eps=1e-3),
            act_cfg=dict(type='HSwish', inplace=False) if act_cfg == 'default' else act_cfg)

    def __init__(self,
                 in_channels: int,
                 out_channels: int,
                 kernel_size: int = 3,
                 stride: int = 1,
                 expand_ratio: float = 2,
                 se_ratio: float = 0.125,
                 drop_path_rate: float = 0.,
                 norm_cfg: Optional[dict] = None,
                 act_cfg: Optional[dict] = None,
                 init_cfg=None):
        super().__init__(init_cfg)
        channels = int(in_channels * expand_ratio)
        self.expand_conv = None
        if expand_ratio != 1:
            self.expand_conv = ConvNormAct(in_channels, channels, 1, norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.depthwise_conv = ConvNormAct(
            channels, channels, kernel_size, stride, (kernel_size - 1) // 2, groups=channels,
            norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.se = SqueezeExcite(channels, max(1, int(in_channels * se_ratio))) if se_ratio else None
        self.project_conv = ConvNormAct(channels, out_channels, 1, norm_cfg=norm_cfg, act_cfg=None)
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else None

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.expand_conv, self.depthwise_conv, self.se, self.project_conv, self.drop_path):
            if layer is not None:
                x = layer(x)
        return x
