"""The second half of token pooling, for which autograd stores only the input."""
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmrev.compat import backward_into

from .guard import may_fuse, needs_gradient, without_autocast
from .max_pool import fused_max_pool3x3
from .plain_gradients import needs_plain_gradients, plain_gradients

aten = torch.ops.aten
_WINDOW = [3, 3], [1, 1], [1, 1], [1, 1], False  # size, stride, padding, dilation, whether to round sizes up


def can_fuse(x: Tensor, fc1: nn.Module, fc2: nn.Module) -> bool:
    """Whether :func:`pooled_linear` may replace what follows ``fc1``, and overwrite ``x``, the output of ``fc1``."""
    return type(fc1) is type(fc2) is nn.Linear and may_fuse(fc1, fc2) and x.numel() > 0


def pooled_linear(x: Tensor, linear: nn.Linear) -> Tensor:
    """``linear(gelu(max(gelu(x))))``; stores only ``x`` for backward, and overwrites an ``x`` without a gradient.

    Shape:
        Input: ``(B, H, W, C)``; output: ``(B, H, W, linear.out_features)``.
    """
    if needs_gradient(x):
        return _PooledLinear.apply(x, linear.weight, linear.bias)
    return F.linear(_pooled(aten.gelu_(x)), linear.weight, linear.bias)


def _pooled(x: Tensor) -> Tensor:
    """``gelu(max(x))``, in place of ``x`` where that is possible."""
    return aten.gelu_(fused_max_pool3x3(x.permute(0, 3, 1, 2), 1, 1, inplace=True).permute(0, 2, 3, 1))


class _PooledLinear(torch.autograd.Function):
    """``linear(gelu(max(gelu(x))))`` that stores only ``x``: the rest is recomputed where its value is needed."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.linear(_pooled(F.gelu(x)), weight, bias)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        if needs_plain_gradients(grad):
            grad_bias = grad.reshape(-1, grad.shape[-1]).sum(0) if ctx.needs_input_grad[2] else None
            return (*plain_gradients(_plain, (x, weight), grad, cast=True), grad_bias)
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


def _plain(x: Tensor, weight: Tensor) -> Tensor:
    pooled = F.max_pool2d(F.gelu(x).permute(0, 3, 1, 2), *_WINDOW[:3])
    return F.linear(F.gelu(pooled).permute(0, 2, 3, 1), weight)
