"""ResNet of parameter-free layers ("Learning Features with Parameter-Free Layers", Han et al. 2022, arXiv:2202.02777).

The 3x3 convolution of a bottleneck is one spatial operation among others: max pooling has no weights and hardly any
cost. R50-max uses it in every block. R50-hybrid, made of "efficient bottlenecks", keeps a convolution, after an average
pooling, in blocks that change the resolution.

Deviations from the published code: in a dilated stage the pooling is dilated as well, and the first block keeps its
convolution, so that weights trained with strides remain valid; average pooling includes a last odd row or column, so
that images of any size work.
"""
from typing import Callable, Dict, List, Optional, Sequence, Tuple, Union

from mmcv.cnn import build_norm_layer
from torch import Tensor, nn

from mmrev.registry import MODELS

from ...layers import ABN, BatchNormAct, MaxPool3x3, conv_norm, convolve, max_pool3x3
from ...layers.fused.guard import may_fuse
from ..blocks.resnet import ResNetBackbone

# An operation gets the channels, the stride, the dilation, and whether the block begins a stage of another resolution.
# It returns a pooling and a convolution with as many channels, followed by norm and activation; either may be None.
Parts = Tuple[Optional[nn.Module], Optional[nn.Conv2d]]
Operation = Callable[[int, int, int, bool], Parts]


def convolution(channels: int, stride: int, dilation: int, begins: bool) -> Parts:
    """ResNet's own: a 3x3 convolution."""
    return None, nn.Conv2d(channels, channels, 3, stride, dilation, dilation, bias=False)


def max_pooling(channels: int, stride: int, dilation: int, begins: bool) -> Parts:
    """R50-max: a 3x3 max pooling."""
    return MaxPool3x3(stride, dilation), None


def efficient(channels: int, stride: int, dilation: int, begins: bool) -> Parts:
    """R50-hybrid: a 3x3 max pooling; in the block that begins a stage, average pooling and a 3x3 convolution."""
    if not begins:
        return max_pooling(channels, stride, dilation, begins)
    pool = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False) if stride > 1 else None
    return pool, convolution(channels, 1, dilation, begins)[1]


class Bottleneck(nn.Module):
    """A spatial operation between two 1x1 convolutions, and a shortcut.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the operation, a quarter of those of the output.
        stride: Stride of the operation.
        pool: The operation's parameter-free part, or None.
        conv: The operation's convolution, or None.
        norm_cfg: Norm; a ReLU follows unless the norm includes an activation.

    Shape:
        Input: ``(B, in_channels, H, W)``; output: ``(B, 4 * channels, ceil(H / stride), ceil(W / stride))``.
    """
    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, pool: Optional[nn.Module],
                 conv: Optional[nn.Conv2d], norm_cfg: dict):
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = build_norm(norm_cfg, channels)
        self.pool2 = pool
        self.conv2 = conv
        self.bn2 = None if conv is None else build_norm(norm_cfg, channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = build_norm(norm_cfg, out_channels)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                                            build_norm(norm_cfg, out_channels, activate=False))

    def forward(self, x: Tensor) -> Tensor:
        if self.downsample is None:
            shortcut = x
        elif may_fuse(self.downsample):
            shortcut = conv_norm(x, *self.downsample)
        else:
            shortcut = self.downsample(x)
        out = conv_norm_act(x, self.conv1, self.bn1, pool=self.pool2)
        if self.conv2 is not None:
            out = conv_norm_act(out, self.conv2, self.bn2)
        return conv_norm_act(out, self.conv3, self.bn3, shortcut)


def build_norm(norm_cfg: dict, channels: int, activate: bool = True) -> nn.Module:
    """Build a norm; ``activate=False`` removes the activation of one that includes it."""
    norm = build_norm_layer(norm_cfg, channels)[1]
    if isinstance(norm, (ABN, BatchNormAct)) and not activate:
        norm = build_norm_layer({**norm_cfg, 'activation': 'identity'}, channels)[1]
    return norm


def conv_norm_act(x: Tensor, conv: nn.Conv2d, norm: nn.Module, shortcut: Optional[Tensor] = None,
                  pool: Optional[nn.Module] = None) -> Tensor:
    """Convolution, norm, sum with the shortcut, activation (the norm's own, or a ReLU), and a pooling.

    A ReLU follows max pooling instead of preceding it: it is monotone, so values and gradients are the same, but it
    then stores nothing for backward that the next convolution does not store, and processes fewer values with stride 2.
    """
    activated = isinstance(norm, (ABN, BatchNormAct))
    if activated:
        x = convolve(x, conv)
        x = norm(x) if shortcut is None else norm(x, residual=shortcut)
    else:
        x = conv_norm(x, conv, norm)
        if shortcut is not None:
            x.add_(shortcut)
    if type(pool) is MaxPool3x3 and may_fuse(pool):
        x = max_pool3x3(x, pool.stride, pool.dilation, inplace=may_fuse(norm))
        return x if activated else x.relu_()
    if not activated:
        x.relu_()
    return x if pool is None else pool(x)


@MODELS.register_module()
class PFResNet(ResNetBackbone):
    """ResNet whose bottlenecks take any spatial operation. Weights have the names of torchvision and OpenMMLab's
    packages.

    Args:
        depth: 50 or 101.
        operation: ``'conv'`` (ResNet), ``'max'`` (R50-max), ``'hybrid'`` (R50-hybrid), or a function
            ``(channels, stride, dilation, begins) -> (pooling or None, convolution or None)``.
        width: Factor of all channels except the stem's 64.
        small_stem: A 3x3 convolution of stride 1 begins the network, without pooling, for images of 32 pixels; all
            strides are a quarter then.
        in_channels: Channels of the image.
        strides: Of the first block of each stage.
        dilations: Of the operation in each stage.
        out_indices: Stages whose outputs are returned, of 0 (stride 4) ... 3 (stride 32).
        frozen_stages: 0 freezes the stem, ``k`` also stages 1 ... ``k``; -1 freezes nothing.
        norm_cfg: Any norm, followed by a ReLU; or ``mmrev.InPlaceABN``, ``mmrev.InPlaceABNSync``, ``mmrev.ABN`` or
            ``mmrev.BatchNormAct`` with their activations. None for batch norm.
        norm_eval: Freeze the statistics of norms in training; None: if ``init_cfg`` names weights.
        init_cfg: Initialization.

    Shape:
        Input: ``(B, in_channels, H, W)``.
        Output: a tuple of ``(B, channels[i], ceil(H / 4 / 2**i), ceil(W / 4 / 2**i))`` for ``i`` in ``out_indices``.

    Raises:
        ValueError: For another depth or operation, indices out of range, or not a stride and dilation per stage.
    """
    arch_zoo: Dict[int, Tuple[int, ...]] = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
    operations: Dict[str, Operation] = dict(conv=convolution, max=max_pooling, hybrid=efficient)

    def __init__(self,
                 depth: int = 50,
                 operation: Union[str, Operation] = 'hybrid',
                 width: float = 1.,
                 small_stem: bool = False,
                 in_channels: int = 3,
                 strides: Sequence[int] = (1, 2, 2, 2),
                 dilations: Sequence[int] = (1, 1, 1, 1),
                 out_indices: Sequence[int] = (0, 1, 2, 3),
                 frozen_stages: int = -1,
                 norm_cfg: Optional[dict] = None,
                 norm_eval: Optional[bool] = False,
                 init_cfg: Union[dict, List[dict], None] = None):
        num_blocks = self._resolve_arch(depth, 'depth')
        if not callable(operation) and operation not in self.operations:
            raise ValueError(f'`operation` must be one of {list(self.operations)} or a function, got {operation!r}')
        if not len(strides) == len(dilations) == len(num_blocks):
            raise ValueError('`strides` and `dilations` must have a number for each of the '
                             f'{len(num_blocks)} stages, got {strides} and {dilations}')
        super().__init__(len(num_blocks), in_channels, out_indices, frozen_stages, norm_eval,
                         norm_cfg or dict(type='BN'), init_cfg)
        operation = operation if callable(operation) else self.operations[operation]
        kernel = (3, 1, 1) if small_stem else (7, 2, 3)  # size, stride, padding
        self.conv1 = nn.Conv2d(in_channels, 64, *kernel, bias=False)
        self.bn1 = build_norm(self.norm_cfg, 64)
        self.maxpool = nn.Identity() if small_stem else MaxPool3x3(stride=2)
        before, channels = 64, []
        for i, (number, stride, dilation) in enumerate(zip(num_blocks, strides, dilations)):
            planes = int(64 * 2**i * width)
            blocks = []
            for j in range(number):
                at = stride if j == 0 else 1
                spatial = operation(planes, at, dilation, j == 0 and (i > 0 or stride > 1))
                blocks.append(Bottleneck(before, planes, at, *spatial, self.norm_cfg))
                before = planes * Bottleneck.expansion
            self.add_module(f'layer{i + 1}', nn.Sequential(*blocks))
            channels.append(before)
        self._finish(channels)

    @staticmethod
    def _default_init(norm_cfg: dict) -> List[dict]:
        return [dict(type='Kaiming', layer='Conv2d', mode='fan_out', nonlinearity='relu'),
                dict(type='Constant', layer=['_BatchNorm', 'GroupNorm'], val=1)]

    def _stem(self, x: Tensor) -> Tensor:
        return conv_norm_act(x, self.conv1, self.bn1, pool=self.maxpool)
