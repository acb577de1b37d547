"""From images to tokens, from tokens to fewer tokens, and position embeddings."""
import math
from typing import Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """A convolution of patches (ViT, Dosovitskiy et al. 2021, eq. 1); incomplete patches are padded with zeros.

    Args:
        in_channels: Channels of the image.
        embed_dims: Channels of a token.
        patch_size: Side of the convolution's kernel, in pixels.
        stride: Stride in pixels; None is ``patch_size``.
        padding: Zeros around the image, in pixels.
        norm_eps: ``eps`` of a layer norm of the tokens; None for no norm.

    Shape:
        Input: ``(B, in_channels, H, W)``; output: ``(B, H', W', embed_dims)`` with ``H' = ceil(H / stride)``.
    """

    def __init__(self, in_channels: int, embed_dims: int, patch_size: int, stride: Optional[int] = None,
                 padding: int = 0, norm_eps: Optional[float] = None):
        super().__init__()
        self.stride = stride or patch_size
        self.projection = nn.Conv2d(in_channels, embed_dims, patch_size, self.stride, padding)
        self.norm = nn.Identity() if norm_eps is None else nn.LayerNorm(embed_dims, eps=norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        bottom, right = (-side % self.stride for side in x.shape[2:])
        if bottom or right:
            x = F.pad(x, (0, right, 0, bottom))
        return self.norm(self.projection(x).permute(0, 2, 3, 1))


class PatchMerging(nn.Module):
    """Four neighbors become one token of twice the channels (Swin, Liu et al. 2021, section 3.1).

    Shape:
        Input: ``(B, H, W, embed_dims)``; output: ``(B, ceil(H / 2), ceil(W / 2), 2 * embed_dims)``.
    """

    def __init__(self, embed_dims: int, norm_eps: float = 1e-5):
        super().__init__()
        self.norm = nn.LayerNorm(4 * embed_dims, eps=norm_eps)
        self.reduction = nn.Linear(4 * embed_dims, 2 * embed_dims, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        if h % 2 or w % 2:
            x = F.pad(x, (0, 0, 0, w % 2, 0, h % 2))
        x = x.reshape(b, (h + 1) // 2, 2, (w + 1) // 2, 2, c).permute(0, 1, 3, 4, 2, 5)  # (B, H / 2, W / 2, x, y, C)
        return self.reduction(self.norm(x.flatten(3)))


def state_grid(module: nn.Module, state_dict: dict, prefix: str, local_metadata: dict) -> None:
    """A state-dict hook that stores ``module.grid``, the grid of the position embedding, in the metadata."""
    local_metadata['grid'] = list(module.grid)


def loaded_grid(num_tokens: int, local_metadata: dict, grid: Tuple[int, int]) -> Optional[Tuple[int, int]]:
    """Find the grid of a loaded position embedding: that of the metadata, that of the module, or a square; else None.

    Args:
        num_tokens: Number of tokens of the grid.
        local_metadata: Metadata of the module in the state dict.
        grid: Grid of the module.
    """
    side = math.isqrt(num_tokens)
    stated = local_metadata.get('grid', ())
    return next((tuple(g) for g in (stated, grid, (side, side)) if len(g) == 2 and g[0] * g[1] == num_tokens), None)


def resize_pos_embed(embedding: Tensor, old: Tuple[int, int], new: Tuple[int, int], num_extra_tokens: int = 0,
                     mode: str = 'bicubic') -> Tensor:
    """Resize a position embedding to another grid of tokens; those of extra tokens come first and stay unchanged.

    Shape:
        Input: ``(1, num_extra_tokens + old[0] * old[1], C)``; output: the same with ``new``.
    """
    if tuple(old) == tuple(new):
        return embedding
    extra, grid = embedding[:, :num_extra_tokens], embedding[:, num_extra_tokens:]
    grid = grid.unflatten(1, old).permute(0, 3, 1, 2)  # (1, C, H, W)
    align = None if mode in ('nearest', 'area') else False
    grid = F.interpolate(grid, size=new, mode=mode, align_corners=align).flatten(2).transpose(1, 2)
    return torch.cat([extra, grid], dim=1)
