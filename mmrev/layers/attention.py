"""Self-attention over tokens, over windows of a feature map, and over pooled windows."""
from typing import Any, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmrev import compat

from .fused.guard import constant


def split_heads(qkv: Tensor, num_heads: int) -> Tuple[Tensor, Tensor, Tensor]:
    """``(B, N, 3 * C)`` into queries, keys and values ``(B, num_heads, N, C / num_heads)``."""
    b, n, c = qkv.shape
    return qkv.reshape(b, n, 3, num_heads, c // 3 // num_heads).permute(2, 0, 3, 1, 4).unbind(0)


def merge_heads(x: Tensor) -> Tensor:
    """``(B, num_heads, N, C / num_heads)`` into ``(B, N, C)``."""
    return x.transpose(1, 2).flatten(2)


def to_windows(x: Tensor, size: Tuple[int, int]) -> Tensor:
    """``(B, H, W, C)`` into ``(B, num_windows, size[0] * size[1], C)``; sides are multiples of ``size``."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // size[0], size[0], w // size[1], size[1], c)
    return x.transpose(2, 3).reshape(b, -1, size[0] * size[1], c)


def from_windows(x: Tensor, size: Tuple[int, int], height: int, width: int) -> Tensor:
    """The inverse of :func:`to_windows`: into ``(B, height, width, C)``."""
    b, _, _, c = x.shape
    x = x.reshape(b, height // size[0], width // size[1], size[0], size[1], c)
    return x.transpose(2, 3).reshape(b, height, width, c)


def pad_to_multiples(x: Tensor, size: Tuple[int, int]) -> Tensor:
    """Append zeros to the bottom and the right of ``(B, H, W, C)`` up to multiples of ``size``."""
    bottom, right = -x.shape[1] % size[0], -x.shape[2] % size[1]
    return F.pad(x, (0, 0, 0, right, 0, bottom)) if bottom or right else x


class MultiheadAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, section 3.2) by ``F.scaled_dot_product_attention``.

    Args:
        embed_dims: Channels; a multiple of ``num_heads``.
        num_heads: Heads.
        qkv_bias: Whether queries, keys and values have a bias.
        attn_drop_rate: Dropout of the attention weights.
        drop_rate: Dropout of the output.

    Shape:
        Input and output: ``(B, N, embed_dims)``, or a map of tokens ``(B, H, W, embed_dims)``, all of which attend to
        each other.

    Raises:
        ValueError: If the channels cannot be split into the heads.
    """

    def __init__(self, embed_dims: int, num_heads: int, qkv_bias: bool = True, attn_drop_rate: float = 0.,
                 drop_rate: float = 0.):
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(f'`embed_dims` must be a multiple of `num_heads`, got {embed_dims} and {num_heads}')
        self.num_heads = num_heads
        self.attn_drop_rate = attn_drop_rate
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.drop = nn.Dropout(drop_rate) if drop_rate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x.flatten(1, -2))  # (B, N, 3 * C)
        return self.drop(self.proj(merge_heads(self.attend(*split_heads(qkv, self.num_heads))))).view(x.shape)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Optional[Tensor] = None) -> Tensor:
        """``softmax(q k^T / sqrt(d) + bias) v`` of ``(B, heads, N, d)``."""
        dropout = self.attn_drop_rate if self.training else 0.
        if bias is None:
            return F.scaled_dot_product_attention(q, k, v, None, dropout)
        with compat.without_cudnn_attention(q.device.type):  # also in the forward without a graph
            return F.scaled_dot_product_attention(q, k, v, bias.to(q.dtype).contiguous(), dropout)

    def extra_repr(self) -> str:
        return f'num_heads={self.num_heads}, attn_drop_rate={self.attn_drop_rate}'


class WindowAttention(MultiheadAttention):
    """Attention within (shifted) windows, with a bias by relative position (Swin, Liu et al. 2021, eq. 4).

    A map whose sides are not multiples of the window is padded with zeros, which take part in the attention, as in
    the published code.

    Args:
        window_size: Side of a window, in tokens.
        shift: Number of tokens by which the windows are shifted down and right, cyclically.
        shift_back: Whether to shift the output back. minREV's code leaves it shifted.
        **kwargs: ``embed_dims``, ``num_heads``, ``qkv_bias``, ``attn_drop_rate``, ``drop_rate``: See
            :class:`MultiheadAttention`.

    Shape:
        Input and output: ``(B, H, W, embed_dims)``.

    Raises:
        ValueError: If ``shift`` does not lie in ``[0, window_size)``.
    """

    def __init__(self, embed_dims: int, num_heads: int, window_size: int, shift: int = 0, shift_back: bool = True,
                 **kwargs: Any):
        super().__init__(embed_dims, num_heads, **kwargs)
        if not 0 <= shift < window_size:
            raise ValueError(f'`shift` must lie in [0, {window_size}), got {shift}')
        self.window_size = window_size
        self.shift = shift
        self.shift_back = shift_back
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window_size - 1)**2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, c = x.shape
        size = (self.window_size, self.window_size)
        x = pad_to_multiples(x, size)
        _, padded_h, padded_w, _ = x.shape
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        x = to_windows(x, size)  # (B, windows, N, C)
        q, k, v = split_heads(self.qkv(x.flatten(0, 1)), self.num_heads)  # (B * windows, heads, N, d)
        bias = self.position_bias()  # (heads, N, N)
        if self.shift:  # windows differ in their bias: make them heads, so that no bias is repeated per image
            q, k, v = (y.reshape(b, -1, *y.shape[2:]) for y in (q, k, v))  # (B, windows * heads, N, d)
            apart = constant(apart_in_windows, padded_h, padded_w, self.window_size, self.shift, x.device)
            bias = bias.masked_fill(apart[:, None], float('-inf')).flatten(0, 1)  # apart: (windows, N, N)
        y = self.attend(q, k, v, bias[None])
        y = merge_heads(y.reshape(-1, self.num_heads, *y.shape[2:]))  # (B * windows, N, C)
        y = from_windows(self.proj(y).view(b, -1, *y.shape[1:]), size, padded_h, padded_w)
        if self.shift and self.shift_back:
            y = y.roll((self.shift, self.shift), (1, 2))
        return self.drop(y[:, :h, :w])

    def position_bias(self) -> Tensor:
        """The table's rows for every pair of tokens of a window, ``(heads, N, N)``."""
        at = torch.arange(self.window_size, device=self.relative_position_bias_table.device)
        apart = at[:, None] - at + self.window_size - 1  # (window, window), in [0, 2 * window - 2]
        index = apart[:, None, :, None] * (2 * self.window_size - 1) + apart[None, :, None, :]  # (y, x, y', x')
        n = self.window_size**2
        return self.relative_position_bias_table[index.reshape(-1)].view(n, n, -1).permute(2, 0, 1)

    def extra_repr(self) -> str:
        return f'{super().extra_repr()}, window_size={self.window_size}, shift={self.shift}'


def apart_in_windows(height: int, width: int, window_size: int, shift: int, device: torch.device) -> Tensor:
    """Pairs of tokens that share a shifted window but are not neighbors in the image, ``(windows, N, N)``."""
    rows, columns = ((at >= side - window_size).long() + (at >= side - shift).long()
                     for side in (height, width) for at in [torch.arange(side, device=device)])
    strips = (3 * rows[:, None] + columns)[None, :, :, None]  # (1, H, W, 1)
    strips = to_windows(strips, (window_size, window_size))[0, :, :, 0]  # (windows, N)
    return strips[:, :, None] != strips[:, None, :]


class PoolingAttention(MultiheadAttention):
    """Attention between pooled queries, keys and values (MViTv2, Li et al. 2022, eqs. 1 to 6).

    Queries, keys and values are pooled by depthwise convolutions that all heads share, then normalized; the pooled
    query is added to the output, and the relative position enters as one term per axis. With windows, the pooled
    maps are divided, so that each window attends to its part of the keys.

    Args:
        embed_dims: Channels; a multiple of ``num_heads``.
        num_heads: Heads.
        input_size: Height and width, in tokens, of the tables of relative positions; they are resized for other
            sizes.
        kernel_size: Kernel size of the pooling convolutions; odd.
        stride_q: Stride of the pooling of queries, and so of the output.
        stride_kv: Stride of the pooling of keys and values.
        window_size: Side of a window before pooling, in tokens; 0 attends to the whole map.
        residual_pooling: Whether to add the pooled query.
        norm_eps: ``eps`` of the norms after pooling.
        **kwargs: ``qkv_bias``, ``attn_drop_rate``, ``drop_rate``: See :class:`MultiheadAttention`.

    Shape:
        Input: ``(B, H, W, embed_dims)``; output: ``(B, ceil(H / stride_q), ceil(W / stride_q), embed_dims)``.

    Raises:
        ValueError: If ``window_size`` is not a multiple of the strides.
    """

    def __init__(self, embed_dims: int, num_heads: int, input_size: Sequence[int], kernel_size: int = 3,
                 stride_q: int = 1, stride_kv: int = 1, window_size: int = 0, residual_pooling: bool = True,
                 norm_eps: float = 1e-6, **kwargs: Any):
        super().__init__(embed_dims, num_heads, **kwargs)
        if window_size % stride_q or window_size % stride_kv:
            raise ValueError(f'`window_size` must be a multiple of the strides {stride_q} and {stride_kv} that its '
                             f'queries and keys are pooled with, got {window_size}')
        dims = embed_dims // num_heads
        for name, stride in (('q', stride_q), ('k', stride_kv), ('v', stride_kv)):
            pool = nn.Conv2d(dims, dims, kernel_size, stride, kernel_size // 2, groups=dims, bias=False)
            setattr(self, f'pool_{name}', pool)
            setattr(self, f'norm_{name}', nn.LayerNorm(dims, eps=norm_eps))
        self.window_q, self.window_kv = window_size // stride_q, window_size // stride_kv
        self.residual_pooling = residual_pooling
        longest = [max(side // stride_q, side // stride_kv) for side in input_size]
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * longest[0] - 1, dims))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * longest[1] - 1, dims))

    def forward(self, x: Tensor) -> Tensor:
        b, h, w, _ = x.shape
        qkv = self.qkv(x).reshape(b, h, w, 3, self.num_heads, -1).permute(3, 0, 4, 5, 1, 2)
        q, k, v = (self._pool(name, y) for name, y in zip('qkv', qkv.flatten(1, 2)))  # (B * heads, H', W', d)
        pooled, (h, w) = q, q.shape[1:3]
        q, size_q = self._windows(q, self.window_q)  # (B * heads, windows, N, d)
        k, size_kv = self._windows(k, self.window_kv)
        v, _ = self._windows(v, self.window_kv)
        y = self.attend(q, k, v, self._position_bias(q, size_q, size_kv))
        padded = [side + (-side % of) for side, of in zip((h, w), size_q)]
        y = from_windows(y, size_q, *padded)[:, :h, :w]
        if self.residual_pooling:
            y = y + pooled
        y = y.reshape(b, self.num_heads, h, w, -1).permute(0, 2, 3, 1, 4).flatten(3)  # (B, H', W', C)
        return self.drop(self.proj(y))

    def _pool(self, name: str, x: Tensor) -> Tensor:
        """``(B * heads, d, H, W)`` into the pooled and normalized ``(B * heads, H', W', d)``."""
        pool, norm = getattr(self, f'pool_{name}'), getattr(self, f'norm_{name}')
        return norm(pool(x).permute(0, 2, 3, 1))

    @staticmethod
    def _windows(x: Tensor, window: int) -> Tuple[Tensor, Tuple[int, int]]:
        """``(B, H, W, d)`` split into windows, and the size of a window."""
        size = (window, window) if window else tuple(x.shape[1:3])
        return to_windows(pad_to_multiples(x, size), size), size

    def _position_bias(self, q: Tensor, size_q: Tuple[int, int], size_kv: Tuple[int, int]) -> Tensor:
        """``q . R_h + q . R_w`` for each query and key, ``(B * heads, windows, N, N')`` (eqs. 4 and 5)."""
        q = q.unflatten(2, size_q)  # (B * heads, windows, h, w, d)
        rows = relative_positions(self.rel_pos_h, size_q[0], size_kv[0]).to(q.dtype)  # (h, h', d)
        columns = relative_positions(self.rel_pos_w, size_q[1], size_kv[1]).to(q.dtype)  # (w, w', d)
        by_row = torch.einsum('bnhwd,hkd->bnhwk', q, rows)
        by_column = torch.einsum('bnhwd,wkd->bnhwk', q, columns)
        bias = by_row[..., :, None] + by_column[..., None, :]  # (B * heads, windows, h, w, h', w')
        return bias.flatten(4, 5).flatten(2, 3)


def relative_positions(table: Tensor, num_queries: int, num_keys: int) -> Tensor:
    """Rows of ``table`` for each query and key along one axis; the shorter of the two sequences takes larger steps.

    Shape:
        Input: ``(L, d)``, resized to ``2 * max(num_queries, num_keys) - 1`` rows; output:
        ``(num_queries, num_keys, d)``.
    """
    length = 2 * max(num_queries, num_keys) - 1
    if len(table) != length:
        table = F.interpolate(table.t()[None], size=length, mode='linear')[0].t()
    step_q, step_k = max(num_keys / num_queries, 1.), max(num_queries / num_keys, 1.)
    queries = torch.arange(num_queries, device=table.device) * step_q
    keys = torch.arange(num_keys, device=table.device) * step_k
    apart = queries[:, None] - keys + (num_keys - 1) * step_k
    return table[apart.long()]
