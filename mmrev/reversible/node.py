"""A call as autograd sees it: a chain of nodes, one for each coupling.

So gradients of late weights reach their hooks (DDP's buckets) before early steps are undone. The nodes hand streams and
gradients on through the :class:`Call` that they share; autograd itself sees placeholders between them. The last node
has no steps: it takes the outputs' gradients over, so that autograd can release its copies.
"""
from typing import Any, Dict, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .call import Call
from .undo import Undo


class ReversibleNode(torch.autograd.Function):
    """Steps ``[start, stop)`` of a call.

    Its inputs are the streams and every weight of these steps; it returns their gradients and never writes ``.grad``.
    """

    @staticmethod
    def forward(ctx: Any, call: Call, start: int, stop: int, last: bool, num_streams: int,
                *tensors: Tensor) -> Tuple[Tensor, ...]:
        ctx.call, ctx.start, ctx.stop, ctx.last = call, start, stop, last
        ctx.set_materialize_grads(False)
        streams, weights = tensors[:num_streams], tensors[num_streams:]
        ctx.weight_ids = [id(w) for w in weights]
        ctx.inputs = [(x.shape, x.dtype, x.device) for x in streams]
        if start == 0:
            call.begin(streams)
        call.forward(start, stop)
        assert call.streams is not None
        outputs = call.finish() if last else call.streams.aliases()
        ctx.mark_non_differentiable(*[x for x, needed in zip(outputs, call.needs_grad) if not needed])
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Optional[Tensor]) -> Tuple[Any, ...]:
        return (None, None, None, None, None, *_backward(ctx, gradients))


@torch.compiler.disable  # else a compiler that is active where `backward` was called would trace the engine
def _backward(ctx: Any, gradients: Sequence[Optional[Tensor]]) -> Tuple[Optional[Tensor], ...]:
    call, num_streams = ctx.call, len(ctx.inputs)
    if ctx.last:
        call.undo = Undo(call, gradients, _retains_graph())
    elif ctx.stop <= call.first_trained:  # finished already; what is left passes through
        return (*gradients[:num_streams], *[None for _ in ctx.weight_ids])
    weight_gradients: Dict[int, Tensor] = call.undo.backward(ctx.start, ctx.stop)
    stream_gradients: Sequence[Optional[Tensor]]
    if ctx.start <= call.first_trained:
        stream_gradients, call.undo = call.undo.finish(num_streams), None
    else:
        stream_gradients = [_placeholder(*x) for x in ctx.inputs]
    return (*stream_gradients, *[weight_gradients.get(i) for i in ctx.weight_ids])


def _placeholder(shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.zeros((), dtype=dtype, device=device).expand(shape)


def _retains_graph() -> bool:
    """Whether the backward that runs now was asked to retain the graph; torch tells no public way."""
    ask = getattr(torch._C._autograd, '_get_current_graph_task_keep_graph', None)
    return True if ask is None else bool(ask())


def run_reversible(call: Call, streams: Sequence[Tensor]) -> Tuple[Tensor, ...]:
    """Run ``call`` as a chain of nodes, one per segment of its plan."""
    end = len(call.plan.steps)
    for start, stop in call.plan.segments:
        streams = ReversibleNode.apply(call, start, stop, False, len(streams), *streams, *call.weights(start, stop))
    return ReversibleNode.apply(call, end, end, True, len(streams), *streams)
