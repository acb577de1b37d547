"""A call as autograd sees it: a chain of nodes, one for each coupling or for several small ones.

So gradients of late weights reach their hooks (DDP's buckets) before early steps are undone. The nodes pass streams and
gradients through the :class:`Call` that they share; autograd sees only an empty tensor between them, which determines
their order. The last node has no steps: it copies the outputs' gradients, so that autograd can release its own.
"""
from functools import partial
from typing import Any, Optional, Sequence, Tuple

import torch
from torch import Tensor

from mmrev import compat

from .call import Call
from .coupling import surrounded
from .errors import ReversibilityError, refuse_missing_graph
from .gradients import WeightGradients
from .undo import Undo


class ReversibleNode(torch.autograd.Function):
    """Steps ``[start, stop)`` of a call.

    The inputs are the streams (for later nodes, the link to the previous node) and every weight of these steps. The
    node returns their gradients and never writes ``.grad``.
    """

    @staticmethod
    def forward(ctx: Any, call: Call, start: int, stop: int, weight_ids: Sequence[int], num_streams: int,
                *tensors: Tensor) -> Any:
        ctx.segment = call, start, stop, weight_ids, num_streams
        ctx.set_materialize_grads(False)
        if num_streams:
            call.begin(tensors[:num_streams])
        if start < stop:
            try:
                call.forward(start, stop)
            except RuntimeError as error:
                refuse_missing_graph(error, call.plan.describe(len(call.records)))
                raise
            return call.link.detach()
        outputs = call.finish()
        ctx.mark_non_differentiable(*[x for x, needed in zip(outputs, call.needs_grad) if not needed])
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Optional[Tensor]) -> Tuple[Any, ...]:
        if any(g is not None and compat.is_batched(g) for g in gradients):
            raise ReversibilityError('a reversible sequence cannot propagate a batch of gradients '
                                     '(`is_grads_batched=True`, `vectorize=True`, `vmap`); propagate them one by one, '
                                     'or set `reversible=False`')
        # Otherwise a compiler that is active where `backward` was called would trace the engine.
        run = torch.compiler.disable(_backward) if compat.is_compiler_active() else _backward
        if torch.is_inference_mode_enabled():  # in which the functions would record no graph
            run = torch.inference_mode(False)(run)
        if compat.saved_tensor_hooks() is not None:  # the second evaluation saves tensors; a plain backward does not
            run = compat.without_saved_tensor_hooks()(run)
        found = run(ctx, gradients)
        if torch.is_grad_enabled():  # create_graph=True
            call, start, stop, *_ = ctx.segment
            # All gradients depend on all inputs; the link's gradient passes this on from the last node to the first.
            link = gradients[0] if start < stop else _Once.apply(call.link, *call.origins(), *gradients)
            found = tuple(g if g is None else _Once.apply(g, link) for g in found)
        return (None, None, None, None, None, *found)


class _Once(torch.autograd.Function):
    """A gradient that raises if it is differentiated, with respect to any of the ``origins`` that it depends on.

    Autograd runs a node only if it leads to a requested input; without the origins it would skip the error.
    """

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *origins: Optional[Tensor]) -> Tensor:
        return gradient.view_as(gradient) if gradient.layout is torch.strided else gradient.clone()

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise ReversibilityError('second derivatives of a reversible sequence are not defined: its backward recomputes '
                                 'activations and records no graph; set `reversible=False` for them')


def _backward(ctx: Any, gradients: Sequence[Optional[Tensor]]) -> Tuple[Optional[Tensor], ...]:
    call, start, stop, weight_ids, num_streams = ctx.segment
    if start == stop:
        with torch.no_grad():  # create_graph=True
            call.undo = Undo(call, gradients, compat.is_graph_retained())
    weight_gradients: WeightGradients = {}
    if call.undo is not None:
        try:
            weight_gradients = call.undo.backward(start, stop)
        except BaseException:
            call.undo.running.end()
            call.undo = None
            raise
        if start <= call.first_trained:  # the remaining nodes pass gradients through
            call.input_gradients, call.undo = call.undo.finish(), None
    found = list(map(weight_gradients.get, weight_ids))
    if not num_streams:
        return (call.link, *found)  # not None, for `create_graph`
    stream_gradients, call.input_gradients = call.input_gradients[:num_streams], []
    return (*stream_gradients, *found)


def run_reversible(call: Call, streams: Sequence[Tensor]) -> Tuple[Tensor, ...]:
    """Run ``call`` as a chain of nodes, one per segment of its plan."""
    end = len(call.plan.steps)
    num_streams, tensors = len(streams), streams
    call.inputs = _Once.apply(torch.empty(0), *streams)
    for coupling, start, stop in call.plan.segments:
        run = partial(_run_segment, call, start, stop, num_streams)
        tensors = (surrounded(coupling, run, *tensors) if call.plan.is_sharded else run(*tensors)),
        num_streams = 0
    return _apply(call, end, end, (), num_streams, *tensors)


def _run_segment(call: Call, start: int, stop: int, num_streams: int, *tensors: Tensor) -> Tensor:
    weights = call.gather(start, stop)
    return _apply(call, start, stop, list(weights), num_streams, *tensors, *weights.values())


# Skips `Function.apply`'s handling of torch.func transforms, under which a sequence takes the plain path anyway.
_apply: Any = super(torch.autograd.Function, ReversibleNode).apply
