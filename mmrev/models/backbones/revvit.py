"""RevViT: Reversible Vision Transformers (Mangalam et al. 2022, CVPR; arXiv:2302.04869).

A vision transformer whose residual stream is split in two: ``x[0] += attention(x[1])``, ``x[1] += mlp(x[0])`` (eqs. 4
and 5), and which is fused again at its end (section 3.3.2). With ``operation='max'`` every other block has 3x3 max
pooling over the map of its tokens instead of attention, as ViT-S-max does (Han et al. 2022, ICLR; arXiv:2202.02777).

Deviations from mmpretrain's RevVisionTransformer: attention and MLP of a block drop their paths independently;
nothing is dropped in eval mode; random numbers are not reseeded. Its checkpoints load unchanged.
"""
import re
from typing import Dict, List, Optional, Sequence, Tuple, Union

import torch
from mmengine.utils import to_2tuple
from torch import Tensor, nn

from mmrev.registry import MODELS
from mmrev.reversible import Keep, NewStream, ReversibleSequence

from ...layers import MLP, PatchEmbed, resize_pos_embed
from ...layers.patch_embed import loaded_grid, state_grid
from ..backbone import Backbone, check_choice
from ..blocks.pf_transformer import OPERATIONS, token_mixer
from ..blocks.tokens import TRANSFORMER_INIT, pre_norm, token_norm
from ..blocks.two_stream import FUSION_MODES, FusedStreams, TwoStreamBlock, freeze_unread

_MMPRETRAIN = re.compile(r'layers\.(\d+)\.(ln1|ln2|attn|ffn\.layers\.0\.0|ffn\.layers\.1)\.(.+)')
_PARTS = {'ln1': 'f.norm', 'attn': 'f.layer', 'ln2': 'g.norm', 'ffn.layers.0.0': 'g.layer.fc1',
          'ffn.layers.1': 'g.layer.fc2'}


@MODELS.register_module()
class RevViT(Backbone):
    """Vision transformer whose training memory does not grow with depth.

    Args:
        arch: A key of :attr:`arch_zoo`, or a dict with ``embed_dims``, ``num_layers``, ``num_heads`` and
            ``feedforward_channels``. RevViT-S and -B of the paper are ``'deit-small'`` and ``'deit-base'``; the other
            names are those of mmpretrain, where ``'small'`` is 768 wide and 8 deep.
        img_size: Height and width, in pixels, of the position embedding; it is resized for other images.
        patch_size: Side of a patch, in pixels.
        in_channels: Channels of the image.
        out_indices: Layers after which the fused streams are returned as a level, counted from 0, or backwards from
            -1, the last.
        out_type: ``'raw'``, all tokens; ``'cls_token'``; ``'featmap'``, the patches' tokens as a map; or
            ``'avg_featmap'``, their mean.
        fusion_mode: How the two streams become one level: ``'concat'``, ``'add'``, ``'max'``, ``'min'``, ``'avg'``.
        final_norm: Normalize every level before it is fused.
        norm_pooled: Normalize the mean of the patches' tokens instead of each (minREV); only with ``'avg_featmap'``.
        with_cls_token: Whether a class token comes before the patches'.
        drop_rate: Dropout after the position embedding and in all layers.
        attn_drop_rate: Dropout of the attention weights.
        drop_path_rate: Stochastic depth of the last layer, growing linearly from 0 of the first.
        qkv_bias: Whether queries, keys and values have a bias.
        norm_cfg: Norm of the tokens; None or ``{}`` for layer norm with an ``eps`` of 1e-6.
        frozen_stages: 0 freezes the modules before the layers, ``k`` also ``k`` layers; -1 freezes nothing.
        interpolate_mode: Interpolation of the position embedding.
        operation: Operation of the odd blocks: ``'attention'`` or ``'max'``; even blocks have attention.
        reversible: False trains under plain autograd, with the same weights and results.
        cache_every: Store the streams before every ``cache_every``-th layer, see
            :class:`~mmrev.reversible.ReversibleSequence`.
        overlap: In backward, recompute a step while the gradient of the following step is computed, see
            :class:`~mmrev.reversible.ReversibleSequence`.
        keep: What each step stores for the backward: ``'undo'`` (nothing), ``'state'`` or ``'graph'``, for all or by a
            list, see :class:`~mmrev.reversible.ReversibleSequence`.
        init_cfg: Initialization.

    Shape:
        Input: ``(B, in_channels, H, W)``; padded with zeros to whole patches.
        Output: a tuple with a level per index, with ``C`` = ``channels[i]``: ``(B, N, C)``, ``(B, C)``,
        ``(B, C, H / patch_size, W / patch_size)`` or ``(B, C)`` by ``out_type``.

    Raises:
        ValueError: For an unknown ``arch`` or choice, or indices out of range.
    """

    arch_zoo: Dict[str, dict] = {
        **dict.fromkeys(['t', 'tiny', 'deit-t', 'deit-tiny'],
                        dict(embed_dims=192, num_layers=12, num_heads=3, feedforward_channels=768)),
        **dict.fromkeys(['deit-s', 'deit-small'],
                        dict(embed_dims=384, num_layers=12, num_heads=6, feedforward_channels=1536)),
        **dict.fromkeys(['s', 'small'],
                        dict(embed_dims=768, num_layers=8, num_heads=8, feedforward_channels=2304)),
        **dict.fromkeys(['b', 'base', 'deit-b', 'deit-base'],
                        dict(embed_dims=768, num_layers=12, num_heads=12, feedforward_channels=3072)),
        **dict.fromkeys(['l', 'large'],
                        dict(embed_dims=1024, num_layers=24, num_heads=16, feedforward_channels=4096)),
        **dict.fromkeys(['h', 'huge'],
                        dict(embed_dims=1280, num_layers=32, num_heads=16, feedforward_channels=5120)),
    }
    default_init = TRANSFORMER_INIT
    out_types = ('raw', 'cls_token', 'featmap', 'avg_featmap')

    def __init__(self,
                 arch: Union[str, dict] = 'base',
                 img_size: Union[int, Tuple[int, int]] = 224,
                 patch_size: int = 16,
                 in_channels: int = 3,
                 out_indices: Union[int, Sequence[int]] = -1,
                 out_type: str = 'avg_featmap',
                 fusion_mode: str = 'concat',
                 final_norm: bool = True,
                 norm_pooled: bool = False,
                 with_cls_token: bool = False,
                 drop_rate: float = 0.,
                 attn_drop_rate: float = 0.,
                 drop_path_rate: float = 0.,
                 qkv_bias: bool = True,
                 norm_cfg: Optional[dict] = None,
                 frozen_stages: int = -1,
                 interpolate_mode: str = 'bicubic',
                 operation: str = 'attention',
                 reversible: bool = True,
                 cache_every: Optional[int] = None,
                 overlap: bool = False,
                 keep: Keep = None,
                 init_cfg: Union[dict, List[dict], None] = None):
        arch = self._resolve_arch(arch)
        dims, depth = arch['embed_dims'], arch['num_layers']
        super().__init__(depth, out_indices, frozen_stages, init_cfg=init_cfg)
        self.out_type, self.norm_pooled = out_type, norm_pooled
        self.interpolate_mode = interpolate_mode
        self.operation = operation
        self._check_choices(fusion_mode, with_cls_token)
        norm_cfg = norm_cfg or dict(type='LN', eps=1e-6)

        self.grid = tuple(-(-side // patch_size) for side in to_2tuple(img_size))
        self.patch_embed = PatchEmbed(in_channels, dims, patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dims)) if with_cls_token else None
        self.num_extra_tokens = int(with_cls_token)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.num_extra_tokens + self.grid[0] * self.grid[1], dims))
        self.drop_after_pos = nn.Dropout(drop_rate) if drop_rate else nn.Identity()

        blocks = []
        for i in range(depth):
            rate = drop_path_rate * i / max(1, depth - 1)
            mixer = token_mixer(operation if i % 2 else 'attention', dims, arch['num_heads'], qkv_bias,
                                attn_drop_rate, drop_rate)
            f = pre_norm(norm_cfg, dims, mixer, rate)
            g = pre_norm(norm_cfg, dims, MLP(dims, arch['feedforward_channels'], drop_rate=drop_rate), rate)
            blocks.append(TwoStreamBlock(f, g))
        for target, i in enumerate(self.out_indices, 2):
            norm = token_norm(norm_cfg, 2 * dims) if final_norm and not norm_pooled else None
            blocks[i].after['level'] = NewStream(FusedStreams(norm, fusion_mode), target, (0, 1))
        self.layers = ReversibleSequence(blocks, reversible, cache_every, overlap, keep)
        freeze_unread(self.layers, range(2, 2 + len(self.out_indices)))
        self.channels = (2 * dims if fusion_mode == 'concat' else dims, ) * len(self.out_indices)
        self.pooled_norms = nn.ModuleList(token_norm(norm_cfg, c) for c in self.channels) if norm_pooled else None
        self._register_state_dict_hook(state_grid)
        self._register_load_state_dict_pre_hook(self._adapt_state_dict)
        self._freeze_stages()

    def _check_choices(self, fusion_mode: str, with_cls_token: bool) -> None:
        check_choice('out_type', self.out_type, self.out_types)
        check_choice('fusion_mode', fusion_mode, FUSION_MODES)
        check_choice('operation', self.operation, OPERATIONS)
        if self.operation != 'attention' and with_cls_token:  # which has no neighbors to be pooled with
            raise ValueError(f'`operation={self.operation!r}` needs `with_cls_token=False`')
        if self.out_type == 'cls_token' and not with_cls_token:
            raise ValueError("`out_type='cls_token'` needs `with_cls_token=True`")
        if self.norm_pooled and self.out_type != 'avg_featmap':
            raise ValueError(f"`norm_pooled` needs `out_type='avg_featmap'`, got {self.out_type!r}")

    def _init_parameters(self) -> None:
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        if self.cls_token is not None:
            nn.init.trunc_normal_(self.cls_token, std=0.02)

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        x = self.patch_embed(x)  # (B, H, W, C)
        grid = tuple(x.shape[1:3])
        x = x.flatten(1, 2)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = x + resize_pos_embed(self.pos_embed, self.grid, grid, self.num_extra_tokens, self.interpolate_mode)
        x = self.drop_after_pos(x)
        if self.operation != 'attention':
            x = x.unflatten(1, grid)  # (B, H, W, C): tokens are pooled with their neighbors
        _, _, *levels = self.layers(x, x)
        return tuple(self._format(i, level.flatten(1, -2), grid) for i, level in enumerate(levels))

    def _format(self, i: int, tokens: Tensor, grid: Tuple[int, int]) -> Tensor:
        if self.out_type == 'raw':
            return tokens
        if self.out_type == 'cls_token':
            return tokens[:, 0]
        patches = tokens[:, self.num_extra_tokens:]
        if self.out_type == 'featmap':
            return patches.unflatten(1, grid).permute(0, 3, 1, 2).contiguous()  # (B, C, H, W)
        mean = patches.mean(dim=1)
        return self.pooled_norms[i](mean) if self.norm_pooled else mean

    def _adapt_state_dict(self, state_dict: dict, prefix: str, local_metadata: dict, *args) -> None:
        """Rename mmpretrain's weights to ours, and resize the position embedding to this image size."""
        last = f'layers.couplings.{len(self.layers.couplings) - 1}.after.level.f.norm.'
        for key in [key for key in state_dict if key.startswith(prefix)]:
            name = key[len(prefix):]
            match = _MMPRETRAIN.fullmatch(name)
            if match:
                layer, part, rest = match.groups()
                name = f'layers.couplings.{layer}.{_PARTS[part]}.{rest}'
            elif name.startswith('ln1.'):
                name = last + name.removeprefix('ln1.')
            state_dict[prefix + name] = state_dict.pop(key)
        name = f'{prefix}pos_embed'
        if name in state_dict:
            grid = loaded_grid(state_dict[name].shape[1] - self.num_extra_tokens, local_metadata, self.grid)
            if grid is not None:
                state_dict[name] = resize_pos_embed(state_dict[name], grid, self.grid, self.num_extra_tokens,
                                                    self.interpolate_mode)

    def _stages(self) -> List[List[Union[nn.Module, Tensor]]]:
        stem = [self.patch_embed, self.pos_embed, self.cls_token, self.drop_after_pos]
        return [[part for part in stem if part is not None], *([layer] for layer in self.layers.couplings)]
