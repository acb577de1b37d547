"""ResNet (He et al. 2016, arXiv:1512.03385) with InPlace-ABN (Rota Bulò et al. 2018, arXiv:1712.02616).

As published ("v1"): the activation of a block follows the sum, and the first 3x3 convolution has the stride. The last
norm of a block adds the shortcut, so that a block stores only its output.
"""
from typing import List, Optional, Sequence, Type, Union

from torch import Tensor, nn

from mmrev.registry import MODELS

from ..blocks.activated_backbone import activated_norm
from ..blocks.resnet import ResNetBackbone


def _downsample(in_channels: int, out_channels: int, stride: int, norm_cfg: dict) -> Optional[nn.Sequential]:
    """The projection of the shortcut, if it needs one."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                         activated_norm(norm_cfg, out_channels, 'identity'))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut.

    Args:
        in_channels: Channels of the input.
        planes: Channels of the output.
        stride: Of the first convolution.
        dilation: Of both.
        norm_cfg: Norm with activation.

    Shape:
        Input: ``(B, in_channels, H, W)``; output: ``(B, planes, H / stride, W / stride)``.
    """
    expansion = 1

    def __init__(self, in_channels: int, planes: int, stride: int, dilation: int, norm_cfg: dict):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, planes, 3, stride, dilation, dilation, bias=False)
        self.bn1 = activated_norm(norm_cfg, planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, dilation, dilation, bias=False)
        self.bn2 = activated_norm(norm_cfg, planes)
        self.downsample = _downsample(in_channels, planes, stride, norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.bn2(self.conv2(self.bn1(self.conv1(x))), residual=shortcut)


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 convolutions, and a shortcut.

    Args:
        in_channels: Channels of the input.
        planes: Channels of the 3x3 convolution, a quarter of those of the output.
        stride: Of the 3x3 convolution.
        dilation: Of the 3x3 convolution.
        norm_cfg: Norm with activation.

    Shape:
        Input: ``(B, in_channels, H, W)``; output: ``(B, 4 * planes, H / stride, W / stride)``.
    """
    expansion = 4

    def __init__(self, in_channels: int, planes: int, stride: int, dilation: int, norm_cfg: dict):
        super().__init__()
        out_channels = planes * self.expansion
        self.conv1 = nn.Conv2d(in_channels, planes, 1, bias=False)
        self.bn1 = activated_norm(norm_cfg, planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, dilation, dilation, bias=False)
        self.bn2 = activated_norm(norm_cfg, planes)
        self.conv3 = nn.Conv2d(planes, out_channels, 1, bias=False)
        self.bn3 = activated_norm(norm_cfg, out_channels)
        self.downsample = _downsample(in_channels, out_channels, stride, norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.bn2(self.conv2(self.bn1(self.conv1(x))))
        return self.bn3(self.conv3(out), residual=shortcut)


@MODELS.register_module()
class IABNResNet(ResNetBackbone):
    """ResNet whose norms include their activation. Weights have the names of torchvision and OpenMMLab's packages.

    Args:
        depth: 18, 34, 50, 101 or 152.
        in_channels: Channels of the image.
        strides: Of the first block of each stage.
        dilations: Of the 3x3 convolutions of each stage.
        out_indices: Stages whose outputs are returned, of 0 (stride 4) ... 3 (stride 32).
        frozen_stages: 0 freezes the stem, ``k`` also stages 1 ... ``k``; -1 freezes nothing.
        norm_cfg: ``mmrev.InPlaceABN``, ``mmrev.InPlaceABNSync``, ``mmrev.ABN`` or ``mmrev.BatchNormAct``, with
            ``activation`` and ``activation_param``; None for InPlace-ABN with a leaky ReLU of slope 0.01.
        norm_eval: Freeze the statistics of norms in training; None: if ``init_cfg`` names weights.
        init_cfg: Initialization; by default Xavier, normal, with the gain of the activation, as published.

    Shape:
        Input: ``(B, in_channels, H, W)``.
        Output: a tuple of ``(B, channels[i], H / 4 / 2**i, W / 4 / 2**i)`` for ``i`` in ``out_indices``.

    Raises:
        ValueError: For another depth, indices out of range, or a norm without activation.
    """
    arch_zoo: dict = {
        18: (BasicBlock, (2, 2, 2, 2)),
        34: (BasicBlock, (3, 4, 6, 3)),
        50: (Bottleneck, (3, 4, 6, 3)),
        101: (Bottleneck, (3, 4, 23, 3)),
        152: (Bottleneck, (3, 8, 36, 3)),
    }

    def __init__(self,
                 depth: int,
                 in_channels: int = 3,
                 strides: Sequence[int] = (1, 2, 2, 2),
                 dilations: Sequence[int] = (1, 1, 1, 1),
                 out_indices: Sequence[int] = (0, 1, 2, 3),
                 frozen_stages: int = -1,
                 norm_cfg: Optional[dict] = None,
                 norm_eval: Optional[bool] = False,
                 init_cfg: Union[dict, List[dict], None] = None):
        block, num_blocks = self._resolve_arch(depth, 'depth')
        super().__init__(len(num_blocks), in_channels, out_indices, frozen_stages, norm_eval, norm_cfg, init_cfg)
        self.conv1 = nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False)
        self.bn1 = activated_norm(self.norm_cfg, 64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        before, channels = 64, []
        for i, (number, stride, dilation) in enumerate(zip(num_blocks, strides, dilations)):
            planes = 64 * 2**i
            self.add_module(f'layer{i + 1}', self._stage(block, number, before, planes, stride, dilation))
            before = planes * block.expansion
            channels.append(before)
        self._finish(channels)

    def _stage(self, block: Type[nn.Module], number: int, in_channels: int, planes: int, stride: int,
               dilation: int) -> nn.Sequential:
        first = block(in_channels, planes, stride, dilation, self.norm_cfg)
        others = (block(planes * block.expansion, planes, 1, dilation, self.norm_cfg) for _ in range(1, number))
        return nn.Sequential(first, *others)

    def _stem(self, x: Tensor) -> Tensor:
        return self.maxpool(self.bn1(self.conv1(x)))
