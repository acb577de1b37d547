"""What vision transformers with parameter-free layers share (Han et al. 2022, arXiv:2202.02777)."""
from abc import abstractmethod
from typing import List, Optional, Sequence, Union

from torch import Tensor, nn

from ...layers import MLP, DropPath, MultiheadAttention, TokenPooling
from ..backbone import Backbone, check_choice
from .tokens import token_norm

OPERATIONS = ('attention', 'max')
DEFAULT_NORM = dict(type='LN', eps=1e-6)


def token_mixer(operation: str, embed_dims: int, num_heads: int, qkv_bias: bool = True, attn_drop_rate: float = 0.,
                drop_rate: float = 0.) -> nn.Module:
    """The operation that mixes tokens in a transformer block: ``'attention'``, or ``'max'``, which has neither heads
    nor query biases.

    Shape:
        Input and output: ``(B, H, W, embed_dims)``; attention takes ``(B, N, embed_dims)`` as well.
    """
    if operation == 'attention':
        return MultiheadAttention(embed_dims, num_heads, qkv_bias, attn_drop_rate, drop_rate)
    return TokenPooling(embed_dims, drop_rate=drop_rate)


class PFBlock(nn.Module):
    """A transformer block on a map of tokens: ``x += spatial(norm1(x))``, ``x += mlp(norm2(x))``.

    Args:
        embed_dims: Channels.
        num_heads: Heads of the attention.
        operation: ``'attention'`` or ``'max'``.
        mlp_ratio: Factor of the MLP's channels.
        drop_rate: Dropout of both functions.
        attn_drop_rate: Dropout of the attention weights.
        drop_path_rate: Stochastic depth of both functions.
        norm_cfg: Norm of the tokens.

    Shape:
        Input and output: ``(B, H, W, embed_dims)``.
    """

    def __init__(self, embed_dims: int, num_heads: int, operation: str, mlp_ratio: float, drop_rate: float,
                 attn_drop_rate: float, drop_path_rate: float, norm_cfg: dict):
        super().__init__()
        self.norm1 = token_norm(norm_cfg, embed_dims)
        self.spatial = token_mixer(operation, embed_dims, num_heads, attn_drop_rate=attn_drop_rate, drop_rate=drop_rate)
        self.norm2 = token_norm(norm_cfg, embed_dims)
        self.mlp = MLP(embed_dims, int(embed_dims * mlp_ratio), drop_rate=drop_rate)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.spatial(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PFTransformer(Backbone):
    """Operation and position embedding of the transformers with parameter-free layers.

    Even blocks, counted from 0, have attention; odd ones have ``operation``.
    """

    def __init__(self, num_levels: int, out_indices: Union[int, Sequence[int]], operation: str,
                 norm_cfg: Optional[dict], frozen_stages: int, init_cfg: Union[dict, List[dict], None]):
        super().__init__(num_levels, out_indices, frozen_stages, init_cfg=init_cfg)
        check_choice('operation', operation, OPERATIONS)
        self.operation = operation
        self.norm_cfg = norm_cfg or DEFAULT_NORM
        self._register_load_state_dict_pre_hook(self._fit_position)

    def _blocks(self, embed_dims: int, num_heads: int, drop_path_rates: Sequence[float], **kwargs) -> nn.Sequential:
        """One block for each rate of stochastic depth."""
        return nn.Sequential(*(
            PFBlock(embed_dims, num_heads, self.operation if i % 2 else 'attention', drop_path_rate=rate,
                    norm_cfg=self.norm_cfg, **kwargs) for i, rate in enumerate(drop_path_rates)))

    def _init_parameters(self) -> None:
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    @abstractmethod
    def _resized(self, position: Tensor, local_metadata: dict) -> Tensor:
        """Resize a loaded position embedding to our grid."""

    def _fit_position(self, state_dict: dict, prefix: str, local_metadata: dict, *args) -> None:
        key = f'{prefix}pos_embed'
        if key in state_dict:
            state_dict[key] = self._resized(state_dict[key], local_metadata)
