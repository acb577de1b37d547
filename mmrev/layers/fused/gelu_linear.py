"""GELU and the linear layer after it, for which autograd stores only the input."""
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmrev.compat import backward_into

from .guard import may_fuse, needs_gradient, without_autocast
from .plain_gradients import needs_plain_gradients, plain_gradients

aten = torch.ops.aten


def can_fuse(fc1: nn.Module, fc2: nn.Module) -> bool:
    """Whether :func:`gelu_linear` may replace GELU and ``fc2``, and overwrite the output of ``fc1``."""
    return type(fc1) is type(fc2) is nn.Linear and may_fuse(fc1, fc2)


def gelu_linear(x: Tensor, linear: nn.Linear) -> Tensor:
    """``linear(gelu(x))``; stores only ``x`` for backward, and overwrites an ``x`` without a gradient."""
    if needs_gradient(x):
        return _GELULinear.apply(x, linear.weight, linear.bias)
    return F.linear(aten.gelu_(x), linear.weight, linear.bias)


class _GELULinear(torch.autograd.Function):
    """``linear(gelu(x))`` that stores only ``x``: the activation is recomputed where its value is needed."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _plain(x, weight, bias)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        if needs_plain_gradients(grad):
            grad_bias = grad.reshape(-1, grad.shape[-1]).sum(0) if ctx.needs_input_grad[2] else None
            return (*plain_gradients(_plain, (x, weight), grad, cast=True), grad_bias)
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


def _plain(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
    return F.linear(F.gelu(x), weight, bias)
