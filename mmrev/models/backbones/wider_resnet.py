"""WiderResNet (Wu et al. 2016, arXiv:1611.10080) with InPlace-ABN (Rota Bulò et al. 2018, arXiv:1712.02616)."""
from typing import List, Optional, Sequence, Tuple, Union

from torch import nn

from mmrev.registry import MODELS

from ..blocks.pre_activation import PreActivationBackbone, Stage


@MODELS.register_module()
class WiderResNet(PreActivationBackbone):
    """Six stages of few, wide blocks with identity mappings; norms include their activation.

    Stage 0 has stride 2, stages 1 ... 5 have strides 4, 8, 16, 32 and 32. Where max pooling follows a stage, its plain
    sum is returned; otherwise the output of the next norm and activation. In the A2 variant, convolutions of stride 2
    replace the pooling after stages 1, 2 and 3, and the last two stages have dropout of channels.

    Args:
        depth: 16, 20 or 38.
        a2: The A2 variant.
        dilated: Of the A2 variant: stages 3, 4 and 5 keep stride 8; their 3x3 convolutions are dilated by 2, 4 and 4.
        in_channels: Channels of the image.
        out_indices: Stages whose outputs are returned, of 0 ... 5.
        frozen_stages: 0 freezes the stem, ``k`` also stages 1 ... ``k``; -1 freezes nothing.
        norm_cfg: ``mmrev.InPlaceABN``, ``mmrev.InPlaceABNSync``, ``mmrev.ABN`` or ``mmrev.BatchNormAct``, with
            ``activation`` and ``activation_param``; None for InPlace-ABN with a leaky ReLU of slope 0.01.
        norm_eval: Freeze the statistics of norms in training; None: if ``init_cfg`` names weights.
        init_cfg: Initialization; by default Xavier, normal, with the gain of the activation, as published.

    Shape:
        Input: ``(B, in_channels, H, W)``.
        Output: a tuple of ``(B, channels[i], H / stride, W / stride)`` for the stages in ``out_indices``.

    Raises:
        ValueError: For another depth, ``dilated`` without ``a2``, indices out of range, or a norm without activation.
    """
    arch_zoo: dict = {16: (1, 1, 1, 1, 1, 1), 20: (1, 1, 1, 3, 1, 1), 38: (3, 3, 6, 3, 1, 1)}
    stage_channels: Tuple[Tuple[int, ...], ...] = (
        (128, 128), (256, 256), (512, 512), (512, 1024), (512, 1024, 2048), (1024, 2048, 4096))

    def __init__(self,
                 depth: int,
                 a2: bool = False,
                 dilated: bool = False,
                 in_channels: int = 3,
                 out_indices: Sequence[int] = (5, ),
                 frozen_stages: int = -1,
                 norm_cfg: Optional[dict] = None,
                 norm_eval: Optional[bool] = False,
                 init_cfg: Union[dict, List[dict], None] = None):
        num_blocks = self._resolve_arch(depth, 'depth')
        super().__init__(len(num_blocks), in_channels, out_indices, frozen_stages, norm_eval, norm_cfg, init_cfg)
        if dilated and not a2:
            raise ValueError('`dilated=True` needs the A2 variant; give `a2=True` as well')
        stem = nn.Sequential()
        stem.add_module('conv1', nn.Conv2d(in_channels, 64, 3, 1, 1, bias=False))
        pooled = (0, 1) if a2 else (0, 1, 2, 3, 4)
        strided = () if not a2 else (2, ) if dilated else (2, 3, 4)
        dilations = (1, 1, 1, 2, 4, 4) if dilated else (1, ) * 6
        dropouts = (0., 0., 0., 0., 0.3, 0.5) if a2 else (0., ) * 6
        stages = [
            Stage(number, channels, 2 if i in strided else 1, dilations[i], dropout=dropouts[i], pool=i in pooled)
            for i, (number, channels) in enumerate(zip(num_blocks, self.stage_channels))
        ]
        self._build(stem, 64, stages)
