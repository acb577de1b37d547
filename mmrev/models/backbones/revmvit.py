"""Rev-MViTv2: MViTv2 (Li et al. 2022, arXiv:2112.01526) with reversible blocks (RevViT, Mangalam et al. 2022, section
3.3; PaReprop, Zhu and Mangalam 2023, arXiv:2306.09342).

Within a stage the streams keep their shape and the blocks are reversible. A stage begins with a block that is not: it
reads both streams, concatenated, so that the channels double, and pools its queries, so that the sides halve. In
backward it is recomputed from its input, the only tensor of it that is stored.
"""
from typing import Dict, List, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from mmengine.utils import to_2tuple
from torch import Tensor, nn

from mmrev.registry import MODELS
from mmrev.reversible import Keep, NewStream, ReversibleSequence

from ...layers import MLP, DropPath, PatchEmbed, PoolingAttention
from ..backbone import Backbone, check_choice
from ..blocks.tokens import TRANSFORMER_INIT, pre_norm, token_norm
from ..blocks.two_stream import Fork, FusedStreams, TwoStreamBlock, freeze_unread


class StageTransition(nn.Module):
    """The first block of a stage: a transformer block of the concatenated streams that halves the sides.

    Args:
        norms: Two norms of tokens.
        attention: Pooling attention with ``stride_q`` 2.
        mlp: MLP.
        drop_path_rate: Stochastic depth.

    Shape:
        Input: streams of ``(B, H, W, C)``; output: ``(B, ceil(H / 2), ceil(W / 2), C * streams)``.
    """

    def __init__(self, norms: Sequence[nn.Module], attention: nn.Module, mlp: nn.Module, drop_path_rate: float):
        super().__init__()
        self.norm1, self.norm2 = norms
        self.attn = attention
        self.mlp = mlp
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, *streams: Tensor) -> Tensor:
        x = torch.cat(streams, dim=-1)
        pooled = F.max_pool2d(x.permute(0, 3, 1, 2), 3, stride=2, padding=1).permute(0, 2, 3, 1)
        x = pooled + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


@MODELS.register_module()
class RevMViT(Backbone):
    """Multiscale transformer whose training memory does not grow with the depth of its stages.

    Args:
        arch: A key of :attr:`arch_zoo`, or a dict with ``embed_dims``, ``num_layers``, ``num_heads`` (of the first
            stage, doubled with each stage) and ``downscale_indices``, the blocks that begin a stage.
        img_size: Height and width, in pixels, of the tables of relative positions; they are resized for other
            images.
        in_channels: Channels of the image.
        patch_kernel: Side of the patch embedding's kernel, in pixels.
        patch_stride: Stride of the patch embedding, in pixels.
        pool_kernel: Side of the kernels that pool queries, keys and values; odd.
        stride_kv: Stride of the first stage's keys and values, halved with each stage down to 1.
        window_size: Side of the first stage's windows, in tokens, halved with each stage. The last block of each stage
            but the first attends to the whole map.
        residual_pooling: Whether attention adds the pooled queries (MViTv2, eq. 6).
        out_indices: Stages after which a normalized level is returned, counted from 0, or backwards from -1,
            the last.
        out_type: ``'featmap'``, maps; or ``'avg_featmap'``, their means.
        norm_pooled: Normalize the mean of a level instead of its tokens (minREV); only with ``'avg_featmap'``.
        mlp_ratio: Channels in an MLP over those of a stream.
        drop_path_rate: Stochastic depth of the last block, growing linearly from 0 of the first.
        drop_rate: Dropout in all blocks.
        attn_drop_rate: Dropout of the attention weights.
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
        Input: ``(B, in_channels, H, W)``.
        Output: a tuple with a level per index: ``(B, channels[i], H / stride, W / stride)`` or ``(B, channels[i])``;
        a level has the channels of both streams.

    Raises:
        ValueError: For an unknown ``arch`` or choice, indices out of range, or a window that, when halved, does not
            hold a whole number of pooled tokens.
    """

    arch_zoo: Dict[str, dict] = {
        **dict.fromkeys(['t', 'tiny'],
                        dict(embed_dims=96, num_layers=10, num_heads=1, downscale_indices=(1, 3, 8))),
        **dict.fromkeys(['s', 'small'],
                        dict(embed_dims=96, num_layers=16, num_heads=1, downscale_indices=(1, 3, 14))),
        **dict.fromkeys(['b', 'base'],
                        dict(embed_dims=96, num_layers=24, num_heads=1, downscale_indices=(2, 5, 21))),
    }
    default_init = TRANSFORMER_INIT
    out_types = ('featmap', 'avg_featmap')

    def __init__(self,
                 arch: Union[str, dict] = 'tiny',
                 img_size: Union[int, Tuple[int, int]] = 224,
                 in_channels: int = 3,
                 patch_kernel: int = 7,
                 patch_stride: int = 4,
                 pool_kernel: int = 3,
                 stride_kv: int = 4,
                 window_size: int = 56,
                 residual_pooling: bool = True,
                 out_indices: Union[int, Sequence[int]] = -1,
                 out_type: str = 'featmap',
                 norm_pooled: bool = False,
                 mlp_ratio: float = 4.,
                 drop_path_rate: float = 0.1,
                 drop_rate: float = 0.,
                 attn_drop_rate: float = 0.,
                 qkv_bias: bool = True,
                 norm_cfg: Optional[dict] = None,
                 frozen_stages: int = -1,
                 reversible: bool = True,
                 cache_every: Optional[int] = None,
                 overlap: bool = False,
                 keep: Keep = None,
                 init_cfg: Union[dict, List[dict], None] = None):
        arch = self._resolve_arch(arch)
        begins = (0, *arch['downscale_indices'], arch['num_layers'])  # of each stage, and the end
        num_stages = len(begins) - 1
        super().__init__(num_stages, out_indices, frozen_stages, init_cfg=init_cfg)
        self._begins = begins
        check_choice('out_type', out_type, self.out_types)
        if norm_pooled and out_type != 'avg_featmap':
            raise ValueError(f"`norm_pooled` needs `out_type='avg_featmap'`, got {out_type!r}")
        self.out_type, self.norm_pooled = out_type, norm_pooled
        self._norm_cfg = norm_cfg or dict(type='LN', eps=1e-6)
        self._mlp_ratio, self._drop_rate = mlp_ratio, drop_rate
        self._attention = dict(
            kernel_size=pool_kernel, residual_pooling=residual_pooling, norm_eps=self._norm_cfg.get('eps', 1e-5),
            qkv_bias=qkv_bias, attn_drop_rate=attn_drop_rate, drop_rate=drop_rate)
        self.patch_embed = PatchEmbed(in_channels, arch['embed_dims'], patch_kernel, patch_stride, patch_kernel // 2)
        size = tuple(side // patch_stride for side in to_2tuple(img_size))

        rates = [drop_path_rate * i / max(1, arch['num_layers'] - 1) for i in range(arch['num_layers'])]
        blocks, streams, count, self._levels, self.channels = [], (0, 1), 2, [], ()
        for stage in range(num_stages):
            channels, num_heads = (arch[key] * 2**stage for key in ('embed_dims', 'num_heads'))
            begin, end = self._begins[stage:stage + 2]
            for i in range(begin, end):
                begins, ends = stage and i == begin, stage and i == end - 1
                kv = max(stride_kv // 2**stage, 1)
                attention = PoolingAttention(
                    channels, num_heads, size, stride_q=2 if begins else 1,
                    stride_kv=2 * kv if ends and stage < num_stages - 1 else kv,
                    window_size=0 if ends else window_size // 2**(stage - bool(begins)), **self._attention)
                if begins:  # a last stage of this block alone goes on as one stream
                    sources, streams = streams, (count, ) if ends else (count, count + 1)
                    count += len(streams)
                    size = tuple(-(-side // 2) for side in size)
                    blocks.append(Fork(self._transition(channels, attention, rates[i]), streams, sources))
                else:
                    blocks.append(self._block(channels, attention, rates[i], streams))
            if stage in self.out_indices:
                self.channels += (channels * len(streams), )
                norm = None if norm_pooled else token_norm(self._norm_cfg, self.channels[-1])
                blocks[-1].after['level'] = NewStream(FusedStreams(norm), count, streams)
                self._levels.append(count)
                count += 1
        self.blocks = ReversibleSequence(blocks, reversible, cache_every, overlap, keep)
        freeze_unread(self.blocks, self._levels)
        self.pooled_norms = nn.ModuleList(
            token_norm(self._norm_cfg, c) for c in self.channels) if norm_pooled else None
        self._freeze_stages()

    @classmethod
    def _resolve_arch(cls, arch: Union[str, dict]) -> dict:
        arch = super()._resolve_arch(arch)
        begins = list(arch['downscale_indices'])
        far = all(b - a > 1 for a, b in zip(begins, begins[1:]))
        if not far or any(not 0 < i < arch['num_layers'] for i in begins):
            raise ValueError(f'`downscale_indices` must ascend within [1, {arch["num_layers"]}), with a block between '
                             f'two of them, got {tuple(begins)}')
        return arch

    def _mlp(self, channels: int) -> MLP:
        return MLP(channels, int(channels * self._mlp_ratio), drop_rate=self._drop_rate)

    def _block(self, channels: int, attention: nn.Module, drop_path_rate: float, streams) -> TwoStreamBlock:
        layers = attention, self._mlp(channels)
        return TwoStreamBlock(*(pre_norm(self._norm_cfg, channels, x, drop_path_rate) for x in layers), streams)

    def _transition(self, channels: int, attention: nn.Module, drop_path_rate: float) -> StageTransition:
        norms = [token_norm(self._norm_cfg, channels) for _ in range(2)]
        return StageTransition(norms, attention, self._mlp(channels), drop_path_rate)

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        x = self.patch_embed(x)  # (B, H, W, C)
        streams = self.blocks(x, x)
        levels = [streams[i] for i in self._levels]
        if self.out_type == 'featmap':
            return tuple(x.permute(0, 3, 1, 2).contiguous() for x in levels)  # (B, C, H, W)
        means = [x.mean(dim=(1, 2)) for x in levels]
        return tuple(norm(x) for norm, x in zip(self.pooled_norms, means)) if self.norm_pooled else tuple(means)

    def _stages(self) -> List[List[nn.Module]]:
        blocks = list(self.blocks.couplings)
        return [[self.patch_embed], *(blocks[i:j] for i, j in zip(self._begins, self._begins[1:]))]
