"""The reversible autograd function: nothing is kept for backward but the final streams.

The forward runs steps without a graph and in place on buffers of its own. The backward undoes them one by one; the
evaluation of ``f`` that the undo needs also gives the gradient, so each ``f`` is evaluated once there.

One call of a :class:`~mmrev.reversible.ReversibleSequence` makes a chain of autograd nodes, one per segment of steps,
so that gradients of late weights reach their hooks (DDP's buckets) before early steps are undone. The nodes hand the
streams and the gradients on through the :class:`Call` that they share; autograd itself sees placeholders between them.
The last node has no steps: it takes the outputs' gradients over, so that autograd can let its copies go.
"""
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmrev import compat

from .check import ReconstructionReport, active_report
from .errors import ReversibilityError
from .overlap import Ahead, collectives, settle
from .replay import AutocastSnapshot, ModuleSnapshot, Replay, rng_devices
from .step import AdditiveStep, StreamBuffers, shares_memory

_AccumulateGrad = torch._C._functions.AccumulateGrad


class _Record(NamedTuple):
    """What the backward must know of one step's forward."""
    replay: Replay
    weights: Tuple[Tensor, ...]  # those that require grad
    source_needs_grad: Tuple[bool, ...]
    trains: bool  # a weight or a source needs a gradient
    before: Optional[Tensor]  # the target before the step, where reconstruction is checked


class _Recomputed(NamedTuple):
    """A step's function evaluated again."""
    edge: Any  # of its output; None where no gradient is needed
    dtype: torch.dtype
    sources: List[Tensor]
    likes: List[Optional[Tensor]]  # the streams that the sources are parts of


class Call:
    """One forward through a list of steps and the backwards that follow it.

    Args:
        steps: The steps, in order.
        describe: Gives a step's place for error messages.
        keep_at: Indices of steps before which all streams are kept, for the undo to start afresh from.
        overlap: In the backward, evaluate a step's function while the gradient of the step after it is computed.
    """

    def __init__(self, steps: Sequence[AdditiveStep], describe, keep_at: Sequence[int] = (), overlap: bool = False):
        self.steps = steps
        self.describe = describe
        self.records: List[_Record] = []
        self._modules = [ModuleSnapshot(step.f) for step in steps]
        self._keep_at = frozenset(keep_at)
        self._kept: Dict[int, List[Tensor]] = {}
        self._report: Optional[ReconstructionReport] = active_report()
        self._final: Optional[List[Tensor]] = None
        self._versions: List[int] = []
        self.streams: Optional[StreamBuffers] = None
        self.gradients: Optional[StreamBuffers] = None
        self.communicates: Optional[str] = None  # the first step that does, noticed where steps are to overlap
        self._overlap = overlap
        self._ahead: Optional[Ahead] = None
        self._first_trained = len(steps)
        self._first_read: Dict[int, int] = {}  # per stream, the first step that reads it
        for index, step in enumerate(steps):
            for part in step.sources:
                self._first_read.setdefault(part.stream, index)

    def _is_read_before(self, stream: int, index: int) -> bool:
        """Whether a step before ``index`` reads the stream, so that the undo must bring its value back."""
        return self._report is not None or self._first_read.get(stream, len(self.steps)) < index

    def trainable_weights(self, start: int, stop: int) -> List[Tensor]:
        """Weights of the steps ``[start, stop)`` that require grad, each once."""
        return list({id(p): p for m in self._modules[start:stop] for p in m.parameters if p.requires_grad}.values())

    # ---------------------------------------------------------------- forward

    def begin(self, streams: Sequence[Tensor]) -> None:
        settle()
        self.streams = StreamBuffers(streams)
        self._needs_grad = [x.requires_grad for x in streams]
        self._devices = rng_devices(streams)
        self._autocast = AutocastSnapshot(sorted({d.type for d in self._devices}))

    def forward(self, start: int, stop: int) -> None:
        """Run steps ``[start, stop)`` without a graph."""
        with torch.no_grad(), self._autocast.active():
            for index in range(start, stop):
                if index in self._keep_at:
                    self._kept[index] = self.streams.disown()
                self._forward_step(index)

    def _forward_step(self, index: int) -> None:
        step = self.steps[index]
        sources = [self.streams.read(part) for part in step.sources]
        versions = _versions(sources)
        module = self._modules[index]
        replay = Replay(module, self._devices, self._autocast)
        weights = tuple(p for p in module.parameters if p.requires_grad)
        needs = tuple(self._needs_grad[part.stream] for part in step.sources)
        trains = bool(weights) or any(needs)
        # Where nothing known needs a gradient, a graph costs nothing and betrays a captured tensor that does.
        begun = collectives() if self._overlap else 0
        with torch.set_grad_enabled(not trains):
            out = step.f(*[x.detach() for x in sources])
        if self._overlap and collectives() != begun:
            self._overlap, self.communicates = False, self.describe(index)
        replay.finish()
        self._check_output(index, sources, versions, out)
        before = None
        if step.creates:
            self.streams.create(step.target, out.to(sources[0].dtype))
            self._needs_grad.append(trains)
        else:
            if self._report is not None:
                before = self.streams.read(step.target).clone()
            self.streams.add(step.target, out)
            self._needs_grad[step.target.stream] |= trains
        if trains:
            self._first_trained = min(self._first_trained, index)
        self.records.append(_Record(replay, weights, needs, trains, before))

    def _check_output(self, index: int, sources: List[Tensor], versions: List[int], out: Tensor) -> None:
        step = self.steps[index]
        if not isinstance(out, Tensor):
            raise ReversibilityError(f'{self.describe(index)} must return one tensor, got {type(out).__name__}')
        if versions != _versions(sources):
            raise ReversibilityError(
                f'{self.describe(index)} modified its input in place, so the step cannot be taken back; use '
                f'`inplace=False` in its first layer, or clone the input (shape {tuple(sources[0].shape)})')
        if out.requires_grad:
            raise ReversibilityError(self._captured(index, out.shape))
        if any(shares_memory(out, x) for x in sources):
            raise ReversibilityError(
                f'{self.describe(index)} returned its input or a view of it (shape {tuple(out.shape)}); return a new '
                f'tensor, for example `x.clone()`')
        target = None if step.creates else self.streams.read(step.target)
        if target is not None and target.shape != out.shape:
            raise ReversibilityError(
                f'{self.describe(index)} returned shape {tuple(out.shape)}, but the stream that it is added to '
                f'(stream {step.target.stream}) has shape {tuple(target.shape)}')

    def finish_forward(self) -> List[Tensor]:
        """The final streams; keeps aliases of those that the undo reads, and notices a change of them by version."""
        outputs, self.streams = self.streams.aliases(), None
        end = len(self.steps)
        self._final = [x.detach() if self._is_read_before(i, end) else None for i, x in enumerate(outputs)]
        self._versions = _versions(outputs)
        return outputs

    def needs_grad(self, stream: int) -> bool:
        return self._needs_grad[stream]

    # --------------------------------------------------------------- backward

    def begin_backward(self, gradients: Sequence[Optional[Tensor]], retain_graph: bool) -> None:
        if self._final is None:
            raise RuntimeError(
                'Trying to backward through a reversible sequence a second time after its final streams were let go; '
                'specify retain_graph=True in the first backward')
        for i, (x, version) in enumerate(zip(self._final, self._versions)):
            if x is not None and _version(x) != version:
                raise ReversibilityError(
                    f'output {i} of the reversible sequence, shape {tuple(x.shape)}, was modified in place after the '
                    f'forward (version {_version(x)}, expected {version}); the steps cannot be undone from it. Use '
                    f'an out-of-place operation or clone the output first')
        self.streams = StreamBuffers(self._final)
        if not retain_graph:
            self._final = None
        self._retain_graph = retain_graph
        self.gradients = StreamBuffers([None if g is None else g.clone() for g in gradients])
        self.gradients.own()
        if self._overlap:
            self._ahead = Ahead(self._devices[-1])
            torch.autograd.Variable._execution_engine.queue_callback(settle)  # when this backward ends, early as well

    def backward(self, start: int, stop: int) -> Dict[int, Tensor]:
        """Undo steps ``[start, stop)``; returns the gradients of their weights by ``id``."""
        weight_gradients: Dict[int, Tensor] = {}
        for index in range(stop - 1, max(start, self._first_trained) - 1, -1):
            recomputed = self._ahead.take(index, self._recompute) if self._ahead else self._recompute(index)
            if self._ahead is not None and index > self._first_trained:
                self._ahead.start(index - 1, self._recompute)
            self._differentiate(index, recomputed, weight_gradients)
            del recomputed  # before the next one is made
        return weight_gradients

    def _recompute(self, index: int) -> Optional[_Recomputed]:
        """Evaluate a step's function again, take the step back, and keep the graph if a gradient is needed.

        With ``overlap`` this runs beside :meth:`_differentiate` of the step after it. So it touches none of the
        gradients, and overwrites no source that the other's graph holds.
        """
        step, record = self.steps[index], self.records[index]
        if step.creates:
            self.streams.pop(step.target)
        changed = self._modules[index].changed_parameter()
        if changed is not None:
            raise ReversibilityError(
                f'a parameter of {self.describe(index)}, shape {tuple(changed.shape)}, was modified in place or '
                f'replaced between forward and backward; run the backward before the optimizer steps, and within '
                f'`torch.func.functional_call`')
        has_gradient = self._ahead is not None or self.gradients.read(step.target) is not None
        needs_graph = has_gradient and record.trains
        undo = not step.creates and self._is_read_before(step.target.stream, index)
        recomputed = None
        if needs_graph or undo:
            recomputed = self._evaluate(index, needs_graph, undo)
        for part in step.sources if recomputed else ():
            if not self._is_read_before(part.stream, index):
                self.streams.drop(part.stream)
        if index in self._kept:
            self.streams = StreamBuffers(self._kept[index])
            if not self._retain_graph:
                del self._kept[index]
        return recomputed

    def _evaluate(self, index: int, needs_graph: bool, undo: bool) -> _Recomputed:
        step, record = self.steps[index], self.records[index]
        # A detached tensor shares its version counter with the buffer that the undo writes to; `.data` does not.
        sources = [self.streams.read(part).data for part in step.sources]
        likes = [None if part.whole else self.streams.tensors[part.stream] for part in step.sources]
        with torch.set_grad_enabled(needs_graph), record.replay.again():
            for x, needed in zip(sources, record.source_needs_grad):
                x.requires_grad_(needed and needs_graph)
            out = step.f(*sources)
        if undo:
            if self._ahead is not None:
                self.streams.disown()
            self.streams.add(step.target, out.detach(), alpha=-1)
            self._check_reconstruction(index)
        if self._ahead is not None:
            self._ahead.share(self.streams.tensors)
        edge = compat.output_edge(out) if out.requires_grad else None
        return _Recomputed(edge, out.dtype, sources, likes)

    def _differentiate(self, index: int, recomputed: Optional[_Recomputed],
                       weight_gradients: Dict[int, Tensor]) -> None:
        step, record = self.steps[index], self.records[index]
        gradient = self.gradients.read(step.target)
        if step.creates:
            self.gradients.pop(step.target)
        if recomputed is None or recomputed.edge is None or gradient is None:
            return
        needed = [(part, x, like) for part, x, like in zip(step.sources, recomputed.sources, recomputed.likes)
                  if x.requires_grad]
        gradient = gradient.to(recomputed.dtype)
        self._check_captured(index, compat.edge_node(recomputed.edge), (*record.weights, *(x for _, x, _ in needed)))
        found = torch.autograd.grad(
            recomputed.edge, [x for _, x, _ in needed] + list(record.weights), gradient, allow_unused=True)
        if self._ahead is not None:
            self._ahead.share([*found, gradient])
        for (part, _, like), g in zip(needed, found):
            if g is not None:
                self.gradients.add_gradient(part, g, like, gradient)
        storage = gradient.untyped_storage()
        first_byte, end = storage.data_ptr(), storage.data_ptr() + storage.nbytes()
        for weight, g in zip(record.weights, found[len(needed):]):
            if g is None:
                continue
            earlier = weight_gradients.get(id(weight))
            if earlier is not None:
                g = earlier + g
            elif first_byte <= g.data_ptr() < end:
                g = g.clone()  # it lies within the stream's gradient, which is written to later
            weight_gradients[id(weight)] = g

    def _check_captured(self, index: int, node, known: Sequence[Tensor]) -> None:
        """A leaf of ``f``'s graph that is neither a weight nor a source would lose its gradient: refuse it."""
        known_ids = {id(x) for x in known}
        seen, todo = {node}, [node]
        while todo:
            node = todo.pop()
            if isinstance(node, _AccumulateGrad) and id(node.variable) not in known_ids:
                raise ReversibilityError(self._captured(index, node.variable.shape))
            for following, _ in node.next_functions:
                if following is not None and following not in seen:
                    seen.add(following)
                    todo.append(following)

    def _captured(self, index: int, shape: torch.Size) -> str:
        return (f'{self.describe(index)} uses a tensor (shape {tuple(shape)}) that requires grad but is neither one of '
                f'its parameters nor one of its inputs; its gradient would be lost. Register it as a parameter, pass '
                f'it as a stream, or detach it')

    def _check_reconstruction(self, index: int) -> None:
        before = self.records[index].before
        if before is not None:
            self._report.add(index, self.describe(index), before, self.streams.read(self.steps[index].target))

    def nothing_trained_before(self, index: int) -> bool:
        return index <= self._first_trained

    def hand_over(self, start: int, num_streams: int) -> Optional[List[Optional[Tensor]]]:
        """The gradients of the streams before step ``start``, if no earlier step is left to go through."""
        if not self.nothing_trained_before(start):
            return None
        gradients, self.streams, self.gradients = self.gradients.tensors, None, None
        return gradients[:num_streams]


class ReversibleNode(torch.autograd.Function):
    """Steps ``[start, stop)`` of a call as one node of autograd's graph.

    Its inputs are the streams and every weight of these steps; it returns their gradients and never writes ``.grad``.
    """

    @staticmethod
    def forward(ctx, call: Call, start: int, stop: int, last: bool, num_streams: int, *tensors: Tensor):
        ctx.call, ctx.start, ctx.stop, ctx.last = call, start, stop, last
        ctx.set_materialize_grads(False)
        streams, weights = tensors[:num_streams], tensors[num_streams:]
        ctx.weight_ids = [id(w) for w in weights]
        ctx.inputs = [(x.shape, x.dtype, x.device) for x in streams]
        if start == 0:
            call.begin(streams)
        call.forward(start, stop)
        outputs = call.finish_forward() if last else call.streams.aliases()
        ctx.mark_non_differentiable(*[x for i, x in enumerate(outputs) if not call.needs_grad(i)])
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients: Optional[Tensor]):
        call = ctx.call
        if ctx.last:
            call.begin_backward(gradients, _retains_graph())
        elif call.nothing_trained_before(ctx.stop):  # handed over already; what is left passes through
            return (None, None, None, None, None, *gradients[:len(ctx.inputs)], *[None for _ in ctx.weight_ids])
        weight_gradients = call.backward(ctx.start, ctx.stop)
        stream_gradients = call.hand_over(ctx.start, len(ctx.inputs)) or [_placeholder(*x) for x in ctx.inputs]
        return (None, None, None, None, None, *stream_gradients,
                *[weight_gradients.get(i) for i in ctx.weight_ids])


def _placeholder(shape, dtype, device) -> Tensor:
    return torch.zeros((), dtype=dtype, device=device).expand(shape)


def _retains_graph() -> bool:
    """Whether the backward that runs now was asked to retain the graph; torch tells no public way."""
    ask = getattr(torch._C._autograd, '_get_current_graph_task_keep_graph', None)
    return True if ask is None else ask()


def _version(x: Tensor) -> int:
    return 0 if x.is_inference() else x._version


def _versions(tensors: Sequence[Tensor]) -> List[int]:
    return [_version(x) for x in tensors]


def run_reversible(call: Call, segments: Sequence[Tuple[int, int]], streams: Sequence[Tensor]) -> Tuple[Tensor, ...]:
    """Run ``call`` as a chain of nodes, one per segment ``[start, stop)`` of its steps."""
    for i, (start, stop) in enumerate(segments):
        weights = call.trainable_weights(start, stop)
        last = i == len(segments) - 1
        streams = ReversibleNode.apply(call, start, stop, last, len(streams), *streams, *weights)
    return streams
