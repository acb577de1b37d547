"""DenseNet (Huang et al. 2017, arXiv:1608.06993) with InPlace-ABN (Rota Bulò et al. 2018, arXiv:1712.02616)."""
from typing import List, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmrev.registry import MODELS
from mmrev.reversible import NewStream, ReversibleSequence

from ..blocks.activated_backbone import ActivatedBackbone, activated_norm, image_stem


class DenseLayer(nn.Module):
    """1x1 and 3x3 convolution of the concatenated outputs of all layers before.

    Args:
        in_channels: Channels of the concatenation.
        growth: Channels of the output; the 1x1 convolution has four times as many.
        norm_cfg: Norm with activation.

    Shape:
        Input: tensors ``(B, C_i, H, W)``, ``in_channels`` in total; output: ``(B, growth, H, W)``.
    """

    def __init__(self, in_channels: int, growth: int, norm_cfg: dict):
        super().__init__()
        self.bn1 = activated_norm(norm_cfg, in_channels)
        self.conv1 = nn.Conv2d(in_channels, 4 * growth, 1, bias=False)
        self.bn2 = activated_norm(norm_cfg, 4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, *xs: Tensor) -> Tensor:
        x = self.conv1(self.bn1(torch.cat(xs, 1)))
        return self.conv2(self.bn2(x))


@MODELS.register_module()
class IABNDenseNet(ActivatedBackbone):
    """DenseNet whose norms include their activation.

    A layer is a step that computes a new stream from all streams before it. A block stores only the outputs of its
    layers; the concatenations, quadratic in depth, and the convolutions are recomputed in backward.

    Args:
        depth: 121, 161, 169, 201 or 264.
        in_channels: Channels of the image.
        deep_stem: Three 3x3 convolutions, as the published weights have it, instead of one of 7x7.
        memory_efficient: False stores everything for backward, as plain autograd does, with the same weights and
            results.
        out_indices: Stages whose outputs are returned, of 0 (stride 4) ... 3 (stride 32), as the norm after each
            activates them.
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
    arch_zoo: dict = {  # growth, layers of each stage
        121: (32, (6, 12, 24, 16)),
        161: (48, (6, 12, 36, 24)),
        169: (32, (6, 12, 32, 32)),
        201: (32, (6, 12, 48, 32)),
        264: (32, (6, 12, 64, 48)),
    }

    def __init__(self,
                 depth: int,
                 in_channels: int = 3,
                 deep_stem: bool = True,
                 memory_efficient: bool = True,
                 out_indices: Sequence[int] = (0, 1, 2, 3),
                 frozen_stages: int = -1,
                 norm_cfg: Optional[dict] = None,
                 norm_eval: Optional[bool] = False,
                 init_cfg: Union[dict, List[dict], None] = None):
        growth, num_layers = self._resolve_arch(depth, 'depth')
        super().__init__(len(num_layers), in_channels, out_indices, frozen_stages, norm_eval, norm_cfg, init_cfg)
        self.stem = image_stem(in_channels, 2 * growth, deep_stem, self.norm_cfg)
        self.stages, self.norms, self.transitions = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        before, channels = 2 * growth, []
        for number in num_layers:
            layers = [DenseLayer(before + i * growth, growth, self.norm_cfg) for i in range(number)]
            self.stages.append(ReversibleSequence(
                [NewStream(layer, i + 1, range(i + 1)) for i, layer in enumerate(layers)], memory_efficient))
            before += number * growth
            channels.append(before)
            self.norms.append(activated_norm(self.norm_cfg, before))
            if len(channels) < len(num_layers):
                self.transitions.append(nn.Conv2d(before, before // 2, 1, bias=False))
                before //= 2
        self._finish(channels)

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        x = self.stem(x)
        levels = []
        for i, (stage, norm) in enumerate(zip(self.stages, self.norms)):
            z = norm(torch.cat(stage(x), 1))
            if i in self.out_indices:
                levels.append(z)
            if i < len(self.transitions):
                x = F.avg_pool2d(self.transitions[i](z), 2)
        return tuple(levels)

    def _stages(self) -> List[List[nn.Module]]:
        ends = zip(self.stages, self.norms, [*self.transitions, nn.Identity()])
        return [[self.stem], *([stage, norm, transition] for stage, norm, transition in ends)]
