"""A backward: undoes steps one by one; the evaluation of ``f`` that the undo needs also gives the gradient."""
from contextlib import nullcontext
from functools import partial
from sys import getrefcount
from typing import Any, List, Optional, Sequence, Union

import torch
from torch import Tensor

from mmrev import compat

from .call import Call
from .function import requires_grad
from .gradients import WeightGradients, differentiate_without, has_hooks, hooks, is_held_elsewhere, unshared
from .graph import refuse_captured
from .keep import GRAPH
from .modes import without_cache
from .observe import Observer, refuse_survivors
from .output import check_unmodified, refuse_modified
from .overlap import AheadOnStreams, AheadOnThread, run_ahead
from .record import Evaluated
from .running import Backward
from .streams import StreamBuffers


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
        check_unmodified(call.final, call.output_versions)
        # Parts of the call; not the call itself, which holds this object.
        self._plan, self._records, self._states = call.plan, call.records, call.states
        self._modes, self._report, self._first_trained = call.modes, call.report, call.first_trained
        self._retain_graph, self._grad_enabled = retain_graph, torch.enable_grad()
        self.running = Backward.begin(call.plan.backwards)
        self.streams = StreamBuffers(call.final)
        if not retain_graph:
            call.final = None
        self.gradients = StreamBuffers([None if g is None else g.clone() for g in gradients])
        self.gradients.own()
        self._ahead: Union[AheadOnThread, AheadOnStreams, None] = None
        if call.overlap:
            self._ahead = run_ahead(call.device)
            self.streams.replaced = self._ahead.replaced

    def backward(self, start: int, stop: int) -> WeightGradients:
        """Undo steps ``[start, stop)``; returns the gradients of their weights by ``id``."""
        weight_gradients: WeightGradients = {}
        self._has_modes, self._others = self._modes.matters(), self.running.others()
        if self._ahead is not None:  # the next node's steps are not for the hooks that run between
            weights = [p for record in self._records[start:stop] for p in record.replay.weights.trained.values()]
            self._ahead_until = start if any(map(has_hooks, weights)) else self._first_trained
        with self._grad_enabled:  # for the functions; streams and their gradients require none
            for index in range(stop - 1, max(start, self._first_trained) - 1, -1):
                self._step(index, weight_gradients)
        return weight_gradients

    def _step(self, index: int, weight_gradients: WeightGradients) -> None:
        ahead, record = self._ahead, self._records[index]
        if record.watched is not None:
            refuse_survivors(record.watched, self._plan.describe(index))
        evaluated = ahead.take(index, self._evaluate) if ahead else self._evaluate(index)
        if ahead is not None and index > self._ahead_until:
            ahead.start(index - 1, self._evaluate)
        self._differentiate(index, evaluated, weight_gradients)
        observer, evaluated = evaluated.observer if evaluated else None, None  # released before the next are made
        if ahead is None:  # with overlap, every undo makes a copy, and another thread uses the streams
            self.streams.share_if_held(self._plan.read[index])
        if observer is not None and not (self._retain_graph and record.kept):
            refuse_survivors(observer, self._plan.describe(index))
            self._plan.observed.add(index)

    def _evaluate(self, index: int) -> Optional[Evaluated]:
        """Undo a step, with its function evaluated again if need be, and return the graph if a gradient is needed.

        With ``overlap`` this runs beside :meth:`_differentiate` of the step after it. So it touches none of the
        gradients, and overwrites no source that the other's graph holds.
        """
        step, record, plan = self._plan.steps[index], self._records[index], self._plan
        if step.creates:
            self.streams.pop(step.target)
        everything = self._report is not None
        undo = not step.creates and (everything or plan.undone[index])
        if not everything and self._states:
            self._states.restore(index, self.streams, not self._retain_graph, plan.describe)
        if record.kept is not None:
            evaluated: Optional[Evaluated] = self._take_kept(index, undo)
        else:
            has_gradient = self._ahead is not None or self.gradients.tensors[step.target.stream] is not None
            needs_graph = has_gradient and record.trains
            evaluated = self._evaluate_again(index, needs_graph, undo) if needs_graph or undo else None
        if everything:
            self._states.restore(index, self.streams, not self._retain_graph, plan.describe)
        else:
            for stream in plan.released[index]:
                self.streams.release(stream)
        return evaluated

    def _take_kept(self, index: int, undo: bool) -> Evaluated:
        step, record = self._plan.steps[index], self._records[index]
        kept = record.kept
        assert kept is not None
        record.replay.check(self._plan.descriptions[index])
        if undo:
            assert record.out is not None
            refuse_modified(record.out, record.versions[-1], self._plan.descriptions[index])
            if self._ahead is not None:
                self.streams.disown()
            self.streams.add(step.target, record.out, alpha=-1)
            if self.streams.replaced is not None:
                self.streams.replaced.append(record.out)
        for part, x, expected in zip(step.sources, kept.sources, record.versions):
            if part.start is None:
                if part.stream in self._plan.needed[index]:
                    refuse_modified(x, expected, self._plan.descriptions[index])
                self.streams.put(part.stream, x.detach())
        if not self._retain_graph:
            record.kept = record.out = None
        return kept

    def _evaluate_again(self, index: int, needs_graph: bool, undo: bool) -> Evaluated:
        step, record = self._plan.steps[index], self._records[index]
        sources: List[Tensor] = []
        likes: List[Optional[Tensor]] = []
        for part, needed in zip(step.sources, record.source_needs_grad):
            # A detached tensor shares its version counter with the buffer that the undo writes to; `.data` does not.
            sources.append(self.streams.get(part).data.requires_grad_(needs_graph and needed))
            likes.append(self.streams.tensors[part.stream])
        describe = self._plan.descriptions[index]
        observer = None
        if needs_graph and index not in self._plan.observed:
            observer = Observer(self._plan.functions[index])
            observer.watch(sources)
        with observer or (nullcontext() if needs_graph else torch.no_grad()):
            out = record.replay.run(step.f, sources, self._has_modes, describe)
        if observer is not None and observer.packs:
            self._plan.functions[index].recomputes = True
        if undo:
            if self._ahead is not None:
                self.streams.disown()
            self.streams.add(step.target, out.detach(), alpha=-1)
            if record.before is not None and self._report is not None:
                self._report.add(index, self._plan.describe(index), record.before, self.streams.get(step.target))
        return Evaluated(out if needs_graph else out.detach(), sources, likes, observer, replayed=True)

    def _differentiate(self, index: int, evaluated: Optional[Evaluated], weight_gradients: WeightGradients) -> None:
        step, record = self._plan.steps[index], self._records[index]
        gradient = self.gradients.read(step.target)
        if step.creates:
            self.gradients.pop(step.target)
        if evaluated is None or evaluated.edge is None or gradient is None:
            return
        sources = list(filter(requires_grad, evaluated.sources))
        weights = list(filter(requires_grad, record.replay.weights.trained.values()))
        if gradient.dtype is not evaluated.dtype:
            gradient = gradient.to(evaluated.dtype)
        if evaluated.observer is not None:
            leaves = evaluated.observer.leaves()
            known = [p for p in (*record.replay.weights.found, *evaluated.sources, *leaves) if p is not None]
            refuse_captured(evaluated.edge, known, self._plan.descriptions[index])
            del known, leaves  # otherwise they would seem to be left behind by a sequence within the function
        hooked = list(filter(None, map(hooks, weights)))
        if hooked:
            self.running.saw_hooks()
        if self._others:
            self.running.refuse(self._others, self._plan.descriptions[index])
        given = evaluated.edge, sources + weights, gradient, self._retain_graph and self._plan.keep[index] == GRAPH
        references = getrefcount(gradient)
        differentiate: Any = partial(differentiate_without, hooked) if hooked else compat.differentiate
        if self._has_modes:
            differentiate = partial(without_cache, differentiate)
        surrounds = evaluated.replayed and self._plan.functions[index].recomputes
        held = evaluated.add_gradients(  # no name for what is found: it may hold `gradient`, whose holders count below
            record.replay.surround(differentiate, *given) if surrounds else differentiate(*given),
            step, weights, gradient, self.gradients, weight_gradients)
        held = getrefcount(gradient) > references or held and is_held_elsewhere(gradient, step.target)
        if held and not step.creates:  # by a hook
            self.gradients.disown([step.target.stream])

    def finish(self) -> List[Optional[Tensor]]:
        """The gradients of the inputs; copied where a hook keeps their memory, to which autograd may add others."""
        self.running.leave()
        return list(map(unshared, self.gradients.tensors))
