"""A backward: undoes steps one by one; the evaluation of ``f`` that the undo needs also gives the gradient."""
import weakref
from functools import partial
from typing import List, Optional, Sequence, Union

import torch
from torch import Tensor

from .call import Call
from .errors import ReversibilityError
from .function import NOTHING, requires_grad
from .gradients import WeightGradients, add_weight_gradients, differentiate, hooks_on
from .observe import Observer, refuse_captured, refuse_survivors
from .overlap import AheadOnStreams, AheadOnThread, run_ahead
from .plan import GRAPH
from .record import Evaluated
from .running import Backward
from .streams import StreamBuffers, version


class Undo:
    """One backward of a call.

    Args:
        call: The forward.
        gradients: Those of the outputs; copied, so that autograd can release them.
        retain_graph: Whether another backward of the same call may follow.

    Raises:
        ReversibilityError: If an output was modified in place.
        RuntimeError: If an earlier backward released the final streams.
    """

    def __init__(self, call: Call, gradients: Sequence[Optional[Tensor]], retain_graph: bool):
        if call.final is None:
            raise RuntimeError(
                'Trying to backward through a reversible sequence a second time after its final streams were released; '
                'specify retain_graph=True in the first backward')
        for i, (x, expected) in enumerate(zip(call.final, call.output_versions)):
            if x is not None and version(x) != expected:
                raise ReversibilityError(
                    f'output {i} of the reversible sequence, shape {tuple(x.shape)}, was modified in place after the '
                    f'forward (version {version(x)}, expected {expected}); the steps cannot be undone from it. Use an '
                    f'out-of-place operation or clone the output first')
        self._call = weakref.proxy(call)  # a proxy, because the call holds this object
        self._plan = call.plan
        self._retain_graph = retain_graph
        self.running = Backward(call.plan.backwards)
        self.streams = StreamBuffers(call.final)
        if not retain_graph:
            call.final = None
        self.gradients = StreamBuffers([None if g is None else g.clone() for g in gradients])
        self.gradients.own()
        self._ahead: Union[AheadOnThread, AheadOnStreams, None] = None
        if call.overlap:
            self._ahead = run_ahead(call.device)
            self.streams.replaced = self._ahead.replaced
            # when this backward ends, even early
            torch.autograd.Variable._execution_engine.queue_callback(self._ahead.settle)

    def backward(self, start: int, stop: int) -> WeightGradients:
        """Undo steps ``[start, stop)``; returns the gradients of their weights by ``id``."""
        weight_gradients: WeightGradients = {}
        with torch.enable_grad():  # for the functions; streams and their gradients require none
            for index in range(stop - 1, max(start, self._call.first_trained) - 1, -1):
                self._step(index, weight_gradients)
        return weight_gradients

    def _step(self, index: int, weight_gradients: WeightGradients) -> None:
        ahead = self._ahead
        evaluated = ahead.take(index, self._evaluate) if ahead else self._evaluate(index)
        if ahead is not None and index > self._call.first_trained:
            ahead.start(index - 1, self._evaluate)
        self._differentiate(index, evaluated, weight_gradients)
        observer, evaluated = evaluated.observer if evaluated else None, None  # released before the next are made
        if ahead is None:  # with overlap, every undo makes a copy, and another thread uses the streams
            self.streams.share_if_held(self._plan.read[index])
        if observer is not None and not (self._retain_graph and self._call.records[index].kept):
            refuse_survivors(observer, self._plan.describe(index))
            self._plan.observed.add(index)

    def _evaluate(self, index: int) -> Optional[Evaluated]:
        """Undo a step, with its function evaluated again if need be, and return the graph if a gradient is needed.

        With ``overlap`` this runs beside :meth:`_differentiate` of the step after it. So it touches none of the
        gradients, and overwrites no source that the other's graph holds.
        """
        step, record, plan = self._plan.steps[index], self._call.records[index], self._plan
        if step.creates:
            self.streams.pop(step.target)
        everything = self._call.report is not None
        undo = not step.creates and (everything or plan.undone[index])
        if not everything and self._call.states:
            self._restore_state(index)
        if record.kept is not None:
            evaluated: Optional[Evaluated] = self._take_kept(index, undo)
        else:
            has_gradient = self._ahead is not None or self.gradients.read(step.target) is not None
            needs_graph = has_gradient and record.trains
            evaluated = self._evaluate_again(index, needs_graph, undo) if needs_graph or undo else None
        if everything:
            self._restore_state(index)
        else:
            for stream in plan.released[index]:
                self.streams.release(stream)
        return evaluated

    def _restore_state(self, index: int) -> None:
        state = self._call.states.get(index)
        if state is None:
            return
        for stream, (x, expected) in enumerate(state):
            if x is not None:
                if x._version != expected:
                    raise ReversibilityError(
                        f'stream {stream}, kept as it was before {self._plan.describe(index)}, shape {tuple(x.shape)}, '
                        f'was modified in place after the forward; use an out-of-place operation, or clone it first')
                self.streams.put(stream, x)
        if not self._retain_graph:
            del self._call.states[index]

    def _take_kept(self, index: int, undo: bool) -> Evaluated:
        step, record = self._plan.steps[index], self._call.records[index]
        kept = record.kept
        assert kept is not None
        record.replay.check(partial(self._plan.describe, index))
        if undo:
            assert record.out is not None
            if self._ahead is not None:
                self.streams.disown()
            self.streams.add(step.target, record.out, alpha=-1)
            if self.streams.replaced is not None:
                self.streams.replaced.append(record.out)
        for part, x in zip(step.sources, kept.sources):
            if part.whole:
                self.streams.put(part.stream, x.detach())
        if not self._retain_graph:
            record.kept = record.out = None
        return kept

    def _evaluate_again(self, index: int, needs_graph: bool, undo: bool) -> Evaluated:
        step, record = self._plan.steps[index], self._call.records[index]
        # A detached tensor shares its version counter with the buffer that the undo writes to; `.data` does not.
        sources = [self.streams.get(part).data for part in step.sources]
        likes = [None if part.whole else self.streams.tensors[part.stream] for part in step.sources]
        describe = partial(self._plan.describe, index)
        observer = Observer() if needs_graph and index not in self._plan.observed else None
        if needs_graph:
            for x, needed in zip(sources, record.source_needs_grad):
                x.requires_grad_(needed)
            if observer is not None:
                observer.watch(sources)
        with observer or (NOTHING if needs_graph else torch.no_grad()):
            out = record.replay.run(step.f, sources, describe)
        if observer is not None and observer.packs:
            self._plan.functions[index].recomputes = True
        if undo:
            if self._ahead is not None:
                self.streams.disown()
            self.streams.add(step.target, out.detach(), alpha=-1)
            if record.before is not None and self._call.report is not None:
                self._call.report.add(index, self._plan.describe(index), record.before, self.streams.get(step.target))
        return Evaluated(out if needs_graph else out.detach(), sources, likes, observer, replayed=True)

    def _differentiate(self, index: int, evaluated: Optional[Evaluated], weight_gradients: WeightGradients) -> None:
        step, record = self._plan.steps[index], self._call.records[index]
        gradient = self.gradients.read(step.target)
        if step.creates:
            self.gradients.pop(step.target)
        if evaluated is None or evaluated.edge is None or gradient is None:
            return
        needed = [found for found in zip(step.sources, evaluated.sources, evaluated.likes) if found[1].requires_grad]
        weights = list(filter(requires_grad, record.replay.weights.trained.values()))
        if gradient.dtype is not evaluated.dtype:
            gradient = gradient.to(evaluated.dtype)
        if evaluated.observer is not None:
            known = [p for p in (*record.replay.weights.found, *evaluated.sources) if p is not None]
            known += evaluated.observer.leaves()
            refuse_captured(evaluated.edge, known, partial(self._plan.describe, index))
        others = self.running.others()
        hooked = hooks_on(weights)
        if hooked:
            self.running.saw_hooks()
        if others:
            self.running.refuse(others, partial(self._plan.describe, index))
        retain = self._retain_graph and self._plan.keep[index] == GRAPH
        given = evaluated.edge, [x for _, x, _ in needed], weights, gradient, retain, hooked
        surrounds = evaluated.replayed and self._plan.functions[index].recomputes
        found = record.replay.surround(differentiate, *given) if surrounds else differentiate(*given)
        for (part, _, like), g in zip(needed, found):
            if g is not None:
                self.gradients.add_gradient(part, g, like, gradient)
        add_weight_gradients(weights, found[len(needed):], gradient, weight_gradients)

    def finish(self) -> List[Optional[Tensor]]:
        """The gradients of the inputs."""
        self.running.leave()
        return self.gradients.tensors
