"""The parameter-free layer that takes the place of self-attention (Han et al. 2022, arXiv:2202.02777)."""
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mmrev.compat import backward_into

from .forms import is_own_linear, is_staged, needs_gradient, without_autocast
from .max_pool import max_pool_tokens

aten = torch.ops.aten
_WINDOW = [3, 3], [1, 1], [1, 1], [1, 1], False  # size, stride, padding, dilation, whether to round sizes up


class _PooledLinear(torch.autograd.Function):
    """``linear(gelu(max(gelu(x))))`` that keeps ``x`` alone: the rest is computed again where its value is needed."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(aten.gelu_(max_pool_tokens(F.gelu(x), inplace=True)), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        with without_autocast(grad.device.type):
            activated = F.gelu(x).to(grad.dtype).permute(0, 3, 1, 2)  # (B, C, H, W), channels last
            pooled, index = aten.max_pool2d_with_indices(activated, *_WINDOW)
            rows = grad.reshape(-1, grad.shape[-1])  # (B * H * W, out)
            if ctx.needs_input_grad[1]:
                grad_weight = rows.t() @ F.gelu(pooled).permute(0, 2, 3, 1).reshape(-1, x.shape[-1])
            if ctx.needs_input_grad[2]:
                grad_bias = rows.sum(0)
            if ctx.needs_input_grad[0]:
                grad_x = (grad @ weight.to(grad.dtype)).permute(0, 3, 1, 2)
                grad_x = backward_into(aten.gelu_backward.grad_input, grad_x, pooled, grad_input=grad_x)
                grad_x = aten.max_pool2d_with_indices_backward(grad_x, activated, *_WINDOW, index).permute(0, 2, 3, 1)
                grad_x = backward_into(aten.gelu_backward.grad_input, grad_x, x.to(grad.dtype), grad_input=grad_x)
        return grad_x, grad_weight, grad_bias


class TokenPooling(nn.Module):
    """Expand, pool the tokens' map by 3x3 maxima, project: ``fc2(gelu(max(gelu(fc1(x)))))``.

    The tokens stay as they lie in memory, channels last. Both activations are the published ones. In training the
    output of ``fc1`` is all that is kept of the wide layer; it can be differentiated once.

    Args:
        embed_dims: Channels of input and output.
        expand_ratio: Factor of the channels that are pooled.
        drop_rate: Dropout of the output.

    Shape:
        Input and output: ``(B, H, W, embed_dims)``.
    """

    def __init__(self, embed_dims: int, expand_ratio: int = 3, drop_rate: float = 0.):
        super().__init__()
        self.fc1 = nn.Linear(embed_dims, expand_ratio * embed_dims)
        self.fc2 = nn.Linear(expand_ratio * embed_dims, embed_dims)
        self.drop = nn.Dropout(drop_rate) if drop_rate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        if (is_staged() or not is_own_linear(self.fc1) or not is_own_linear(self.fc2)
                or needs_gradient(self.fc2.weight) and not needs_gradient(x)):
            x = self.fc2(F.gelu(max_pool_tokens(F.gelu(x))))
        elif needs_gradient(x):
            x = _PooledLinear.apply(x, self.fc2.weight, self.fc2.bias)
        else:
            x = self.fc2(aten.gelu_(max_pool_tokens(aten.gelu_(x), inplace=True)))
        return self.drop(x)
