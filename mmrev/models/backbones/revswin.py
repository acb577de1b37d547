"""Rev-Swin: Swin (Liu et al. 2021, arXiv:2103.14030) with reversible blocks (PaReprop, Zhu and Mangalam 2023,
arXiv:2306.09342).

A stage is reversible; at its end an MLP fuses the two streams, and patch merging creates those of the next stage
(section 3). In backward the steps between stages are recomputed as well, so that only their input is stored.

Deviation from the published code (minREV): the output of shifted windows is shifted back, as in Swin; there it
stays shifted. ``shift_back=False`` does the same, for weights that were trained that way.
"""
from typing import Dict, List, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor, nn

from mmrev.registry import MODELS
from mmrev.reversible import AdditiveStep, Keep, NewStream, ReversibleSequence

from ...layers import MLP, PatchEmbed, PatchMerging, WindowAttention
from ..backbone import Backbone, check_choice
from ..blocks.tokens import TRANSFORMER_INIT, pre_norm, token_norm
from ..blocks.two_stream import Copy, FusedStreams, TwoStreamBlock, freeze_unread


class FusedMLP(MLP):
    """The MLP that fuses two streams of ``(B, H, W, C)`` into one."""

    def __init__(self, channels: int):
        super().__init__(2 * channels, 2 * channels, channels)

    def forward(self, *streams: Tensor) -> Tensor:
        return super().forward(torch.cat(streams, dim=-1))


class StageEnd(nn.Module):
    """Fuse the two streams; merge the patches of the result into the streams of the next stage. The result may be
    returned as a level.

    Args:
        channels: Channels of a stream.
        sources: Streams of the stage.
        first: Index of the first new stream.
        level_norm: Norm of the returned level; None if no level is returned.
        norm_eps: ``eps`` of the norm in patch merging.

    Attributes:
        streams: Streams of the next stage.
        level: The level's stream, or None.
    """

    def __init__(self, channels: int, sources: Tuple[int, int], first: int, level_norm: Optional[nn.Module],
                 norm_eps: float):
        super().__init__()
        self.fuse = FusedMLP(channels)
        self.merge = PatchMerging(channels, norm_eps)
        self.copy = Copy()
        self.norm = level_norm
        self.sources, self.first = sources, first
        self.level = None if level_norm is None else first + 1
        after = first if level_norm is None else first + 2
        self.streams = (after, after + 1)

    def forward(self, *streams: Tensor) -> Tensor:
        return self.merge(self.fuse(*streams))

    def steps(self) -> List[AdditiveStep]:
        a, b = self.streams
        if self.level is None:  # in one step: what is fused is not kept
            steps = [AdditiveStep(self, a, self.sources, creates=True)]
        else:
            steps = [
                AdditiveStep(self.fuse, self.first, self.sources, creates=True),
                AdditiveStep(self.norm, self.level, (self.first, ), creates=True),
                AdditiveStep(self.merge, a, (self.first, ), creates=True)
            ]
        return [*steps, AdditiveStep(self.copy, b, (a, ), creates=True)]


@MODELS.register_module()
class RevSwin(Backbone):
    """Hierarchical transformer whose training memory does not grow with the depth of its stages.

    Args:
        arch: A key of :attr:`arch_zoo`, or a dict with ``embed_dims``, and ``depths`` and ``num_heads`` per stage.
        patch_size: Side of a patch, in pixels.
        in_channels: Channels of the image.
        window_size: Side of a window, in tokens.
        shift_back: False leaves the output of shifted windows shifted, as minREV does.
        out_indices: Stages after which a normalized level is returned, counted from 0, or backwards from -1,
            the last.
        out_type: ``'featmap'``, maps; or ``'avg_featmap'``, their means.
        mlp_ratio: Channels in an MLP over those of a stream.
        drop_rate: Dropout after the patch embedding and in all blocks.
        attn_drop_rate: Dropout of the attention weights.
        drop_path_rate: Stochastic depth of the last block, growing linearly from 0 of the first.
        qkv_bias: Whether queries, keys and values have a bias.
        norm_cfg: Norm of the tokens.
        frozen_stages: 0 freezes the patch embedding, ``k`` also stages 1 ... ``k``; -1 freezes nothing.
        reversible: False trains under plain autograd, with the same weights and results.
        cache_every: Store the streams before every ``cache_every``-th block, see
            :class:`~mmrev.reversible.ReversibleSequence`.
        overlap: In backward, recompute a step while the gradient of the following step is computed, see
            :class:`~mmrev.reversible.ReversibleSequence`.
        keep: What each step stores for the backward: ``'undo'`` (nothing), ``'state'`` or ``'graph'``, for all or by a
            list, see :class:`~mmrev.reversible.ReversibleSequence`.
        init_cfg: Initialization.

    Shape:
        Input: ``(B, in_channels, H, W)``; maps of odd sides are padded with zeros.
        Output: a tuple with a level per index: ``(B, channels[i], H / stride, W / stride)`` or ``(B, channels[i])``;
        a level has a stream's channels, the last one those of both.

    Raises:
        ValueError: For an unknown ``arch`` or choice, or indices out of range.
    """

    arch_zoo: Dict[str, dict] = {
        **dict.fromkeys(['t', 'tiny'], dict(embed_dims=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24))),
        **dict.fromkeys(['s', 'small'], dict(embed_dims=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24))),
        **dict.fromkeys(['b', 'base'], dict(embed_dims=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32))),
    }
    default_init = TRANSFORMER_INIT
    out_types = ('featmap', 'avg_featmap')

    def __init__(self,
                 arch: Union[str, dict] = 'tiny',
                 patch_size: int = 4,
                 in_channels: int = 3,
                 window_size: int = 7,
                 shift_back: bool = True,
                 out_indices: Union[int, Sequence[int]] = -1,
                 out_type: str = 'featmap',
                 mlp_ratio: float = 4.,
                 drop_rate: float = 0.,
                 attn_drop_rate: float = 0.,
                 drop_path_rate: float = 0.1,
                 qkv_bias: bool = True,
                 norm_cfg: Optional[dict] = None,
                 frozen_stages: int = -1,
                 reversible: bool = True,
                 cache_every: Optional[int] = None,
                 overlap: bool = False,
                 keep: Keep = None,
                 init_cfg: Union[dict, List[dict], None] = None):
        arch = self._resolve_arch(arch)
        super().__init__(len(arch['depths']), out_indices, frozen_stages, init_cfg=init_cfg)
        check_choice('out_type', out_type, self.out_types)
        self.depths = tuple(arch['depths'])
        self.out_type = out_type
        self._norm_cfg = norm_cfg or dict(type='LN', eps=1e-5)
        self._mlp_ratio, self._drop_rate = mlp_ratio, drop_rate
        self._attention = dict(window_size=window_size, shift_back=shift_back, qkv_bias=qkv_bias,
                               attn_drop_rate=attn_drop_rate, drop_rate=drop_rate)
        dims, eps = arch['embed_dims'], self._norm_cfg.get('eps', 1e-5)
        self.patch_embed = PatchEmbed(in_channels, dims, patch_size, norm_eps=eps)
        self.drop_after_pos = nn.Dropout(drop_rate) if drop_rate else nn.Identity()

        depth = sum(self.depths)
        rates = [drop_path_rate * i / max(1, depth - 1) for i in range(depth)]
        blocks, streams, self._levels, self.channels = [], (0, 1), [], ()
        for stage, num_heads in enumerate(arch['num_heads']):
            channels = dims * 2**stage
            blocks += [self._block(channels, num_heads, i, rates[len(blocks) + i], streams)
                       for i in range(self.depths[stage])]
            streams = self._end_stage(blocks[-1], stage, channels, streams, eps)
        self.blocks = ReversibleSequence(blocks, reversible, cache_every, overlap, keep)
        freeze_unread(self.blocks, self._levels)
        self._freeze_stages()

    @classmethod
    def _resolve_arch(cls, arch: Union[str, dict]) -> dict:
        arch = super()._resolve_arch(arch)
        if len(arch['depths']) != len(arch['num_heads']) or not arch['depths'] or min(arch['depths']) < 1:
            raise ValueError(f'`depths` and `num_heads` must have a positive number per stage, got {arch["depths"]} '
                             f'and {arch["num_heads"]}')
        return arch

    def _block(self, channels: int, num_heads: int, i: int, drop_path_rate: float, streams) -> TwoStreamBlock:
        """Block ``i`` of a stage; every second one shifts its windows by half."""
        shift = self._attention['window_size'] // 2 if i % 2 else 0
        f = WindowAttention(channels, num_heads, shift=shift, **self._attention)
        g = MLP(channels, int(channels * self._mlp_ratio), drop_rate=self._drop_rate)
        return TwoStreamBlock(*(pre_norm(self._norm_cfg, channels, layer, drop_path_rate) for layer in (f, g)), streams)

    def _end_stage(self, block: TwoStreamBlock, stage: int, channels: int, streams, eps: float) -> Tuple[int, int]:
        """Add to a stage's last block what comes after it; returns the next stage's streams."""
        first = streams[1] + 1
        leaves, last = stage in self.out_indices, stage == len(self.depths) - 1
        if last:
            if leaves:
                norm = token_norm(self._norm_cfg, 2 * channels)
                block.after['level'] = NewStream(FusedStreams(norm), first, streams)
            level = first
        else:
            norm = token_norm(self._norm_cfg, channels) if leaves else None
            block.after['end'] = end = StageEnd(channels, streams, first, norm, eps)
            level, streams = end.level, end.streams
        if leaves:
            self._levels.append(level)
            self.channels += (2 * channels if last else channels, )
        return streams

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        x = self.drop_after_pos(self.patch_embed(x))  # (B, H, W, C)
        streams = self.blocks(x, x)
        levels = [streams[i] for i in self._levels]
        if self.out_type == 'avg_featmap':
            return tuple(x.mean(dim=(1, 2)) for x in levels)
        return tuple(x.permute(0, 3, 1, 2).contiguous() for x in levels)  # (B, C, H, W)

    def _stages(self) -> List[List[nn.Module]]:
        begins = [sum(self.depths[:i]) for i in range(len(self.depths) + 1)]
        blocks = list(self.blocks.couplings)
        return [[self.patch_embed, self.drop_after_pos], *(blocks[i:j] for i, j in zip(begins, begins[1:]))]
