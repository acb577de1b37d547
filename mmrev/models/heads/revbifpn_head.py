"""The classification head of RevBiFPN (Chiley et al. 2022, arXiv:2206.14098)."""
from typing import Any, List, Optional, Sequence, Union

from mmengine.model import BaseModule
from mmpretrain.models.heads import LinearClsHead
from torch import Tensor, nn

from mmrev.registry import MODELS
from mmrev.reversible import AdditiveStep, Coupling, NewStream, ReversibleSequence

from ..blocks import ConvNormAct, MBConv


class DownFusion(Coupling):
    """``x[level + 1] += f(x[level])``, the coarser level at half the resolution."""

    def __init__(self, f: nn.Module, level: int):
        super().__init__()
        self.f = f
        self.level = level

    def steps(self) -> List[AdditiveStep]:
        return [AdditiveStep(self.f, self.level + 1, (self.level, ))]


class PooledFeatures(BaseModule):
    """1x1 convolution, then the mean over all positions: ``(B, C, H, W)`` to ``(B, C')``."""

    def __init__(self, in_channels: int, out_channels: int, norm_cfg: Optional[dict], act_cfg: Optional[dict]):
        super().__init__()
        self.conv = ConvNormAct(in_channels, out_channels, 1, norm_cfg=norm_cfg, act_cfg=act_cfg)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3))


@MODELS.register_module()
class RevBiFPNClsHead(LinearClsHead):
    """Each level is added to the next coarser one; the coarsest is widened, averaged over all positions and classified.

    The functions are recomputed in backward.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of each level, fine to coarse.
        feat_channels: Channels of the features that are classified.
        dropout_rate: Probability that a feature is zeroed in training.
        kernel_size: Depthwise kernel.
        expand_ratios: MBConv expansion from each level to the next.
        se_ratios: Squeeze-excite ratio from each level to the next.
        norm_cfg: Norm of every convolution.
        act_cfg: Activation of every convolution except the projections; None if the norm includes one.
        reversible: False stores every activation for backward, as plain autograd does.
        init_cfg: Initialization.
        kwargs: ``loss``, ``topk``, ``cal_acc`` of mmpretrain's ``ClsHead``.

    Shape:
        Input: a sequence of ``(B, in_channels[i], H / 2**i, W / 2**i)``; output: ``(B, num_classes)``.

    Raises:
        ValueError: If the levels differ in number.
    """

    def __init__(self,
                 num_classes: int,
                 in_channels: Sequence[int],
                 feat_channels: int = 1280,
                 dropout_rate: float = 0.,
                 kernel_size: int = 5,
                 expand_ratios: Sequence[float] = (1, 2, 2),
                 se_ratios: Sequence[float] = (0.25, 0.25, 0.125),
                 norm_cfg: Optional[dict] = None,
                 act_cfg: Union[dict, None, str] = 'default',
                 reversible: bool = True,
                 init_cfg: Union[dict, List[dict], None] = None,
                 **kwargs: Any):
        init_cfg = init_cfg or [*MBConv.default_init_cfg, dict(type='Normal', layer='Linear', std=0.01)]
        super().__init__(num_classes, feat_channels, init_cfg, **kwargs)
        fusions = len(in_channels) - 1
        if len(expand_ratios) < fusions or len(se_ratios) < fusions:
            raise ValueError(f'`expand_ratios` and `se_ratios` must have an entry for each of the {fusions} levels '
                             f'before the last, got {expand_ratios} and {se_ratios}')
        cfgs = MBConv.default_cfgs(norm_cfg, act_cfg)
        self.num_levels = len(in_channels)
        down = [
            MBConv(in_channels[i], in_channels[i + 1], kernel_size, 2, expand_ratios[i], se_ratios[i], **cfgs)
            for i in range(fusions)
        ]
        features = NewStream(PooledFeatures(in_channels[-1], feat_channels, **cfgs), self.num_levels, (fusions, ))
        self.pyramid = ReversibleSequence([*map(DownFusion, down, range(fusions)), features], reversible)
        self.dropout = nn.Dropout(dropout_rate)

    def pre_logits(self, feats: Sequence[Tensor]) -> Tensor:
        """The features that are classified, ``(B, feat_channels)``."""
        if len(feats) != self.num_levels:
            raise ValueError(f'expected {self.num_levels} levels, as many as `in_channels` has, got {len(feats)}')
        return self.pyramid(*feats)[-1]

    def forward(self, feats: Sequence[Tensor]) -> Tensor:
        """The scores before softmax, ``(B, num_classes)``."""
        return self.fc(self.dropout(self.pre_logits(feats)))
