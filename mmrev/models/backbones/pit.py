"""Pooling-based vision transformer (PiT, Heo et al. 2021, arXiv:2103.16302), and PiT-S-max with parameter-free layers
(Han et al. 2022, arXiv:2202.02777).

Three stages of transformer blocks; between them a depthwise convolution of stride 2 doubles the channels. As in
PiT-S-max there is no class token: the classifier takes the mean of the last stage's tokens. With ``operation='max'``
every other block of a stage has 3x3 max pooling over its map of tokens instead of attention.

Deviations from the published code: images of any size that holds a patch work, because the position embedding is
resized to their grid; incomplete strides are padded with zeros.
"""
from typing import Dict, List, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from mmengine.utils import to_2tuple
from torch import Tensor, nn

from mmrev.registry import MODELS

from ...layers import PatchEmbed
from ..blocks.pf_transformer import PFTransformer
from ..blocks.tokens import token_norm


@MODELS.register_module()
class PiT(PFTransformer):
    """Vision transformer of three resolutions, with attention in even blocks and attention or pooling in odd ones.

    Args:
        arch: ``'ti'``, ``'s'`` or ``'b'``, or a dict with the keys of :attr:`arch_zoo`'s entries; ``embed_dims`` grow
            by a whole factor from stage to stage.
        operation: Of the odd blocks: ``'attention'`` for PiT, or ``'max'`` for PiT-max.
        img_size: Height and width, in pixels, that the position embedding is made for; it is resized for others.
        in_channels: Channels of the image.
        out_indices: Stages whose maps of tokens are returned, of 0 ... 2. The last one's is normalized.
        mlp_ratio: Factor of the MLPs' channels.
        drop_rate: Dropout after the position embedding and in all blocks.
        attn_drop_rate: Dropout of the attention weights.
        drop_path_rate: Stochastic depth that the blocks' rates grow towards, linearly from 0 of the first.
        frozen_stages: 0 freezes patch and position embedding, ``k`` also ``k`` stages and what leads to them; -1
            freezes nothing.
        norm_cfg: Norm of the tokens.
        interpolate_mode: For resizing the position embedding.
        init_cfg: Initialization.

    Shape:
        Input: ``(B, in_channels, H, W)``.
        Output: a tuple of ``(B, channels[i], H_i, W_i)`` for ``i`` in ``out_indices``, where of the sizes S, with
        ``patch_size`` 16 and ``stride`` 8, ``H_0 = (H - 16) / 8 + 1`` and ``H_i = ceil(H_{i-1} / 2)``: 27, 14 and 7 of
        224 pixels.

    Raises:
        ValueError: For an unknown ``arch`` or operation, or indices out of range.
    """
    arch_zoo: Dict[str, dict] = {
        'ti': dict(embed_dims=(64, 128, 256), num_layers=(2, 6, 4), num_heads=(2, 4, 8), patch_size=16, stride=8),
        's': dict(embed_dims=(144, 288, 576), num_layers=(2, 6, 4), num_heads=(3, 6, 12), patch_size=16, stride=8),
        'b': dict(embed_dims=(256, 512, 1024), num_layers=(3, 6, 4), num_heads=(4, 8, 16), patch_size=14, stride=7),
    }
    default_init = [dict(type='Constant', layer='LayerNorm', val=1.)]

    def __init__(self,
                 arch: Union[str, dict] = 's',
                 operation: str = 'attention',
                 img_size: Union[int, Tuple[int, int]] = 224,
                 in_channels: int = 3,
                 out_indices: Sequence[int] = (0, 1, 2),
                 mlp_ratio: float = 4.,
                 drop_rate: float = 0.,
                 attn_drop_rate: float = 0.,
                 drop_path_rate: float = 0.,
                 frozen_stages: int = -1,
                 norm_cfg: Optional[dict] = None,
                 interpolate_mode: str = 'bicubic',
                 init_cfg: Union[dict, List[dict], None] = None):
        arch = self._resolve_arch(arch)
        dims, depths = arch['embed_dims'], arch['num_layers']
        super().__init__(len(dims), out_indices, operation, norm_cfg, frozen_stages, init_cfg)
        self.interpolate_mode = interpolate_mode
        patch_size, stride = arch['patch_size'], arch['stride']
        self.patch_embed = PatchEmbed(in_channels, dims[0], patch_size, stride)
        grid = [(-(-side // stride) * stride - patch_size) // stride + 1 for side in to_2tuple(img_size)]
        self.pos_embed = nn.Parameter(torch.zeros(1, dims[0], *grid))
        self.drop_after_pos = nn.Dropout(drop_rate)
        self.stages, self.pools = nn.ModuleList(), nn.ModuleList()
        rates = [drop_path_rate * i / sum(depths) for i in range(sum(depths))]
        for i, (channels, depth, heads) in enumerate(zip(dims, depths, arch['num_heads'])):
            if i > 0:
                self.pools.append(nn.Conv2d(dims[i - 1], channels, 3, 2, 1, groups=dims[i - 1]))
            begin = sum(depths[:i])
            self.stages.append(self._blocks(channels, heads, rates[begin:begin + depth], mlp_ratio=mlp_ratio,
                                            drop_rate=drop_rate, attn_drop_rate=attn_drop_rate))
        self.norm = token_norm(self.norm_cfg, dims[-1])
        self.channels = tuple(dims[i] for i in self.out_indices)
        self._freeze_stages()

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        x = self.patch_embed(x)  # (B, H, W, C)
        x = self.drop_after_pos(x + self._position(x.shape[1:3]))
        levels = []
        for i, stage in enumerate(self.stages):
            if i > 0:
                x = self.pools[i - 1](x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            x = stage(x)
            if i in self.out_indices:
                levels.append(self.norm(x) if i == len(self.stages) - 1 else x)
        return tuple(level.permute(0, 3, 1, 2).contiguous() for level in levels)

    def _position(self, grid: Sequence[int]) -> Tensor:
        """The position embedding of a grid of tokens, ``(1, H, W, C)``."""
        return self._interpolated(self.pos_embed, grid).permute(0, 2, 3, 1)

    def _resized(self, position: Tensor, local_metadata: dict) -> Tensor:
        return self._interpolated(position, self.pos_embed.shape[2:]) if position.ndim == 4 else position

    def _interpolated(self, position: Tensor, grid: Sequence[int]) -> Tensor:
        if tuple(grid) == tuple(position.shape[2:]):
            return position
        align = None if self.interpolate_mode in ('nearest', 'area') else False
        return F.interpolate(position, tuple(grid), mode=self.interpolate_mode, align_corners=align)

    def _stages(self) -> List[List[Union[nn.Module, Tensor]]]:
        stem = [self.patch_embed, self.pos_embed, self.drop_after_pos]
        return [stem, [self.stages[0]], *([pool, stage] for pool, stage in zip(self.pools, self.stages[1:]))]
