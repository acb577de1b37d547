"""The two-layer perceptron of transformers (Vaswani et al. 2017, eq. 2) with GELU (Hendrycks and Gimpel 2016)."""
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mmrev.compat import backward_into

from .forms import is_own_linear, is_staged, needs_gradient, without_autocast

aten = torch.ops.aten


class _GELULinear(torch.autograd.Function):
    """``linear(gelu(x))`` that keeps ``x`` alone: the activation is computed again where its value is needed."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(F.gelu(x), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        with without_autocast(grad.device.type):
            rows = grad.reshape(-1, grad.shape[-1])  # (B * N, out)
            if ctx.needs_input_grad[1]:
                grad_weight = rows.t() @ F.gelu(x).to(grad.dtype).reshape(-1, x.shape[-1])
            if ctx.needs_input_grad[2]:
                grad_bias = rows.sum(0)
            if ctx.needs_input_grad[0]:
                grad_x = grad @ weight.to(grad.dtype)
                grad_x = backward_into(aten.gelu_backward.grad_input, grad_x, x.to(grad.dtype), grad_input=grad_x)
        return grad_x, grad_weight, grad_bias


class MLP(nn.Module):
    """``fc2(gelu(fc1(x)))``.

    In training the output of ``fc1`` is all that is kept of the wide layer, where autograd keeps GELU's input and
    output. It can be differentiated once.

    Args:
        embed_dims: Channels of the input.
        hidden_dims: Channels in between.
        out_dims: Channels of the output; None is ``embed_dims``.
        drop_rate: Dropout after GELU and after the last layer. With dropout autograd keeps what it keeps.

    Shape:
        Input: ``(..., embed_dims)``; output: ``(..., out_dims)``.
    """

    def __init__(self, embed_dims: int, hidden_dims: int, out_dims: Optional[int] = None, drop_rate: float = 0.):
        super().__init__()
        self.fc1 = nn.Linear(embed_dims, hidden_dims)
        self.fc2 = nn.Linear(hidden_dims, out_dims or embed_dims)
        self.drop_rate = drop_rate

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        if self.training and self.drop_rate:
            x = self.fc2(F.dropout(F.gelu(x), self.drop_rate))
            return F.dropout(x, self.drop_rate)
        if not is_staged():
            if x.requires_grad and is_own_linear(self.fc2):
                return _GELULinear.apply(x, self.fc2.weight, self.fc2.bias)
            if not needs_gradient(x, self.fc2.weight) and is_own_linear(self.fc1):
                return self.fc2(aten.gelu_(x))
        return self.fc2(F.gelu(x))

    def extra_repr(self) -> str:
        return f'drop_rate={self.drop_rate}'
