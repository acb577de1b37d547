"""Reversible functions of a textbook: they save their outputs, and neither repeat random numbers nor check anything.

Their time is what reversibility takes in Python without any safety.
"""
from typing import Any, Callable, Sequence, Tuple

import torch
from torch import Tensor, nn

from mmrev.reversible import AdditiveStep


class Bare(torch.autograd.Function):
    """``a += f(b); b += g(a)`` without any safety."""

    @staticmethod
    def forward(ctx: Any, f: nn.Module, g: nn.Module, a: Tensor, b: Tensor, *weights: Tensor) -> Tuple[Tensor, Tensor]:
        ctx.f, ctx.g = f, g
        a = a + f(b)
        b = b + g(a)
        ctx.save_for_backward(a.detach(), b.detach())
        return a, b

    @staticmethod
    def backward(ctx: Any, da: Tensor, db: Tensor) -> Tuple:
        a, b = ctx.saved_tensors
        out, (more, ), of_g = _differentiate(ctx.g, [a], db)
        da, b = da + more, b - out
        _, (more, ), of_f = _differentiate(ctx.f, [b], da)
        return None, None, da, db + more, *of_f, *of_g


class BareSteps(torch.autograd.Function):
    """A list of steps, such as a stage of RevBiFPN, without any safety."""

    @staticmethod
    def forward(ctx: Any, steps: Sequence[AdditiveStep], num_streams: int, *tensors: Tensor) -> Tuple[Tensor, ...]:
        ctx.steps, ctx.num_streams = steps, num_streams
        streams = [x.clone() for x in tensors[:num_streams]]
        for step in steps:
            out = step.f(*[part.of(streams[part.stream]) for part in step.sources])
            if step.creates:
                streams.append(out)
            else:
                step.target.of(streams[step.target.stream]).add_(out)
        ctx.save_for_backward(*streams)
        return tuple(streams)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tuple:
        streams, grads = [x.clone() for x in ctx.saved_tensors], [g.clone() for g in gradients]
        of_weights = []
        for step in reversed(ctx.steps):
            t, sources = step.target.stream, [part.of(streams[part.stream]) for part in step.sources]
            dx = grads.pop() if step.creates else step.target.of(grads[t])
            out, of_sources, weights = _differentiate(step.f, sources, dx)
            of_weights[:0] = weights
            if step.creates:
                streams.pop()
            else:
                step.target.of(streams[t]).sub_(out)
            for part, of_source in zip(step.sources, of_sources):
                part.of(grads[part.stream]).add_(of_source)
        return None, None, *grads, *of_weights


def _differentiate(f: nn.Module, sources: Sequence[Tensor],
                   gradient: Tensor) -> Tuple[Tensor, Sequence[Tensor], Sequence[Tensor]]:
    with torch.enable_grad():
        sources = [x.detach().requires_grad_() for x in sources]
        out = f(*sources)
    found = torch.autograd.grad(out, [*sources, *f.parameters()], gradient)
    return out.detach(), found[:len(sources)], found[len(sources):]


def two_streams(f: nn.Module, g: nn.Module) -> Callable[..., Tuple[Tensor, ...]]:
    """``a += f(b); b += g(a)`` as a function of ``a`` and ``b``."""
    weights = [*f.parameters(), *g.parameters()]
    return lambda a, b: Bare.apply(f, g, a, b, *weights)


def run_steps(steps: Sequence[AdditiveStep]) -> Callable[..., Tuple[Tensor, ...]]:
    """The steps, one after another, as a function of the streams."""
    weights = [p for step in steps for p in step.f.parameters()]
    return lambda *streams: BareSteps.apply(steps, len(streams), *streams, *weights)
