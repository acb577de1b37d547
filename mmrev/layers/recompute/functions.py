"""Activations as one node of autograd each, whose backward computes its input again."""
from typing import Any, Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class InPlace(torch.autograd.Function):
    """``apply(x, placeholder, function, differentiate)`` changes ``x`` and keeps no clone of what it was.

    Autograd saves the placeholder, an empty tensor; the recorder puts the recipe of the old ``x`` in its place.
    """

    @staticmethod
    def forward(ctx, x: Tensor, placeholder: Tensor, function: Callable[[Tensor], Any], differentiate: Callable):
        function(x)
        ctx.mark_dirty(x)
        ctx.differentiate = differentiate
        ctx.save_for_backward(placeholder)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        return ctx.differentiate(grad, *ctx.saved_tensors), None, None, None


class Swish(torch.autograd.Function):
    """``apply(x, sigmoid)``: their product, where the second is the sigmoid of the first."""

    @staticmethod
    def forward(ctx, x: Tensor, sigmoid: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * sigmoid

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        return torch.ops.aten.silu_backward(grad, *ctx.saved_tensors), None
