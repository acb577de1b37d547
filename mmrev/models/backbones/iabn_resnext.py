"""ResNeXt (Xie et al. 2017, arXiv:1611.05431) with InPlace-ABN (Rota Bulò et al. 2018, arXiv:1712.02616).

As published with InPlace-ABN: blocks with identity mappings, 64 groups, and the stride in the first 1x1 convolution.
"""
from typing import List, Optional, Sequence, Union

from mmrev.registry import MODELS

from ..blocks.activated_backbone import image_stem
from ..blocks.pre_activation import PreActivationBackbone, Stage


@MODELS.register_module()
class IABNResNeXt(PreActivationBackbone):
    """Pre-activation ResNeXt whose norms include their activation.

    The output of a stage is returned after the norm and activation that begin the next stage.

    Args:
        depth: 50, 101 or 152.
        in_channels: Channels of the image.
        deep_stem: Three 3x3 convolutions, as the published weights have it, instead of one of 7x7.
        groups: Of the 3x3 convolutions.
        base_channels: Of the convolutions of a block of the first stage; they double with each stage.
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
    arch_zoo: dict = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}

    def __init__(self,
                 depth: int,
                 in_channels: int = 3,
                 deep_stem: bool = True,
                 groups: int = 64,
                 base_channels: Sequence[int] = (128, 128, 256),
                 strides: Sequence[int] = (1, 2, 2, 2),
                 dilations: Sequence[int] = (1, 1, 1, 1),
                 out_indices: Sequence[int] = (0, 1, 2, 3),
                 frozen_stages: int = -1,
                 norm_cfg: Optional[dict] = None,
                 norm_eval: Optional[bool] = False,
                 init_cfg: Union[dict, List[dict], None] = None):
        num_blocks = self._resolve_arch(depth, 'depth')
        super().__init__(len(num_blocks), in_channels, out_indices, frozen_stages, norm_eval, norm_cfg, init_cfg)
        stages = [
            Stage(number, tuple(c * 2**i for c in base_channels), stride, dilation, groups)
            for i, (number, stride, dilation) in enumerate(zip(num_blocks, strides, dilations))
        ]
        self._build(image_stem(in_channels, 64, deep_stem, self.norm_cfg), 64, stages)
