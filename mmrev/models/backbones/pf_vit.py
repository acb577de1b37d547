"""Vision transformers with parameter-free layers (Han et al. 2022, arXiv:2202.02777): ViT-S-max and its family.

A ViT (Dosovitskiy et al. 2021) without class token, in which every other block has 3x3 max pooling over the map of its
tokens instead of attention.

Deviations from the published code: the grid of tokens need not be square, and the position embedding is resized to it;
incomplete patches are padded with zeros.
"""
from typing import Dict, List, Optional, Sequence, Tuple, Union

import torch
from mmengine.utils import to_2tuple
from torch import Tensor, nn

from mmrev.registry import MODELS

from ...layers import PatchEmbed, resize_pos_embed
from ...layers.patch_embed import loaded_grid, state_grid
from ..blocks.pf_transformer import PFTransformer
from ..blocks.tokens import TRANSFORMER_INIT, token_norm


@MODELS.register_module()
class PFViT(PFTransformer):
    """ViT with attention in even blocks and pooling in odd ones.

    Args:
        arch: ``'ti'``, ``'s'`` or ``'b'``, or a dict with the keys of :attr:`arch_zoo`'s entries.
        operation: Operation of the odd blocks: ``'max'``, or ``'attention'`` for a plain ViT.
        img_size: Height and width, in pixels, of the position embedding; it is resized for other images.
        patch_size: Side of a patch, in pixels.
        in_channels: Channels of the image.
        out_indices: Blocks after which the map of tokens is returned, counted from 0, or backwards from -1, the last.
            The map of the last block is normalized.
        mlp_ratio: Factor of the MLPs' channels.
        drop_rate: Dropout after the position embedding and in all blocks.
        attn_drop_rate: Dropout of the attention weights.
        drop_path_rate: Stochastic depth of the last block, growing linearly from 0 of the first.
        frozen_stages: 0 freezes patch and position embedding, ``k`` also ``k`` blocks; -1 freezes nothing.
        norm_cfg: Norm of the tokens.
        interpolate_mode: Interpolation of the position embedding.
        init_cfg: Initialization.

    Shape:
        Input: ``(B, in_channels, H, W)``.
        Output: a tuple of ``(B, channels[i], ceil(H / patch_size), ceil(W / patch_size))`` for each index.

    Raises:
        ValueError: For an unknown ``arch`` or operation, or indices out of range.
    """
    arch_zoo: Dict[str, dict] = {
        'ti': dict(embed_dims=192, num_layers=12, num_heads=3),
        's': dict(embed_dims=384, num_layers=12, num_heads=6),
        'b': dict(embed_dims=768, num_layers=12, num_heads=12),
    }
    default_init = TRANSFORMER_INIT

    def __init__(self,
                 arch: Union[str, dict] = 's',
                 operation: str = 'max',
                 img_size: Union[int, Tuple[int, int]] = 224,
                 patch_size: int = 16,
                 in_channels: int = 3,
                 out_indices: Sequence[int] = (-1, ),
                 mlp_ratio: float = 4.,
                 drop_rate: float = 0.,
                 attn_drop_rate: float = 0.,
                 drop_path_rate: float = 0.,
                 frozen_stages: int = -1,
                 norm_cfg: Optional[dict] = None,
                 interpolate_mode: str = 'bicubic',
                 init_cfg: Union[dict, List[dict], None] = None):
        arch = self._resolve_arch(arch)
        dims, depth = arch['embed_dims'], arch['num_layers']
        super().__init__(depth, out_indices, operation, norm_cfg, frozen_stages, init_cfg)
        self.interpolate_mode = interpolate_mode
        self.grid = tuple(-(-side // patch_size) for side in to_2tuple(img_size))
        self.patch_embed = PatchEmbed(in_channels, dims, patch_size)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid[0] * self.grid[1], dims))
        self.drop_after_pos = nn.Dropout(drop_rate)
        rates = [drop_path_rate * i / max(1, depth - 1) for i in range(depth)]
        self._register_state_dict_hook(state_grid)
        self.blocks = self._blocks(dims, arch['num_heads'], rates, mlp_ratio=mlp_ratio, drop_rate=drop_rate,
                                   attn_drop_rate=attn_drop_rate)
        self.norm = token_norm(self.norm_cfg, dims)
        self.channels = (dims, ) * len(self.out_indices)
        self._freeze_stages()

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        x = self.patch_embed(x)  # (B, H, W, C)
        grid = tuple(x.shape[1:3])
        pos_embed = resize_pos_embed(self.pos_embed, self.grid, grid, mode=self.interpolate_mode)
        x = self.drop_after_pos(x + pos_embed.unflatten(1, grid))
        levels = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.out_indices:
                levels.append(self.norm(x) if i == len(self.blocks) - 1 else x)
        return tuple(level.permute(0, 3, 1, 2).contiguous() for level in levels)

    def _resized(self, position: Tensor, local_metadata: dict) -> Tensor:
        grid = loaded_grid(position.shape[1], local_metadata, self.grid)
        return position if grid is None else resize_pos_embed(position, grid, self.grid, mode=self.interpolate_mode)

    def _stages(self) -> List[List[Union[nn.Module, Tensor]]]:
        return [[self.patch_embed, self.pos_embed, self.drop_after_pos], *([block] for block in self.blocks)]
