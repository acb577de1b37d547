"""Activations as single nodes of autograd whose backward needs less than that of torch's own."""
from typing import Any, Callable, Tuple

import torch
from torch import Tensor

Derivative = Callable[[Tensor, Tensor], Tensor]


class InPlace(torch.autograd.Function):
    """``apply(x, stand_in, function, derivative)`` changes ``x`` in place; PyTorch would save a clone of its input.

    Autograd saves the stand-in, an empty tensor, which the caller replaces by a recipe.
    """

    @staticmethod
    def forward(ctx, x: Tensor, stand_in: Tensor, function: Callable[[Tensor], Any], derivative: Derivative) -> Tensor:
        function(x)
        ctx.mark_dirty(x)
        ctx.derivative = derivative
        ctx.save_for_backward(stand_in)
        return x

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tuple[Tensor, None, None, None]:
        if torch.is_grad_enabled():  # the error of `once_differentiable` does not always reach the user
            raise RuntimeError('an activation with `inplace=True`, whose memory is saved, has no second derivatives, '
                               'for which `create_graph=True` asks; use `inplace=False`')
        return ctx.derivative(grad, *ctx.saved_tensors), None, None, None


class Swish(torch.autograd.Function):
    """``apply(x, sigmoid)``: the product of ``x`` and its sigmoid, with one backward operator instead of four."""

    @staticmethod
    def forward(ctx, x: Tensor, sigmoid: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * sigmoid

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tuple[Tensor, None]:
        x, = ctx.saved_tensors
        if torch.is_grad_enabled():  # the operator below has no derivative
            sigmoid = x.sigmoid()
            return grad * sigmoid * (1 + x * (1 - sigmoid)), None
        return torch.ops.aten.silu_backward(grad, x), None
