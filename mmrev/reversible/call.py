"""One forward through the steps of a sequence: without a graph, in place on buffers of its own."""
from contextlib import nullcontext
from functools import partial
from typing import Any, Dict, List, Optional, Sequence

import torch
from torch import Tensor

from .check import ReconstructionReport, active_report
from .function import Weights, share_written
from .generators import Drawn, Draws, rewound
from .graph import refuse_dependent
from .inference import run_without_graph
from .keep import GRAPH, STATE, UNDO
from .modes import Modes
from .observe import Observer
from .output import check_output, refuse_alias
from .overlap import collectives, is_distributed
from .plan import Plan
from .record import Evaluated, Record, refuse_other_gradients
from .replay import Replay
from .states import States
from .streams import StreamBuffers, version, versions


class Call:
    """One forward; :class:`~mmrev.reversible.undo.Undo` is a backward of it.

    Args:
        plan: Plan of the sequence.
        overlap: Whether the backward should overlap steps; it does not if a step communicates.
    """

    def __init__(self, plan: Plan, overlap: bool = False):
        self.plan = plan
        self.records: List[Record] = []
        self.states = States()
        self.report: Optional[ReconstructionReport] = active_report()
        self.streams: Optional[StreamBuffers] = None
        self.communicates: Optional[str] = None  # the first step that does; detected only with `overlap`
        self.overlap = overlap
        self.first_trained = len(plan.steps)
        self.final: Optional[List[Optional[Tensor]]] = None  # outputs that the undo starts from
        self.output_versions: List[int] = []
        self.undo: Any = None  # the running backward
        self.inputs: Optional[Tensor] = None  # an empty tensor whose graph leads to the streams
        self.input_gradients: List[Optional[Tensor]] = []  # gradients of the streams, after the backward has ended
        self._weights: List[Weights] = []  # of each function
        self._observes = not plan.forward_observed
        # Processes that communicate must evaluate each function equally often.
        self._tracks_draws = plan.tracks_draws or is_distributed()

    def gather(self, start: int, stop: int) -> Dict[int, Tensor]:
        """Collect the weights of the next steps, ``[start, stop)``, that require grad, by ``id``."""
        found: Dict[int, Tensor] = {}
        for index in range(start, stop):
            weights = self.plan.functions[index].weights()
            if weights.computed:
                refuse_dependent(weights.computed, weights.trained, self.plan.descriptions[index])
            self._weights.append(weights)
            found.update(weights.trained)
        return found

    def origins(self) -> List[Optional[Tensor]]:
        """Tensors whose graphs lead to all that the outputs depend on."""
        return [self.inputs, *(p for weights in self._weights for p in weights.trained.values())]

    def begin(self, streams: Sequence[Tensor]) -> None:
        self.streams = StreamBuffers.dense([x.clone() if x.is_inference() else x.detach() for x in streams])
        self.needs_grad = [x.requires_grad for x in streams]
        self.device = streams[0].device if streams else torch.device('cpu')
        self.link = torch.empty(0, device=self.device)
        self.modes = Modes(sorted({'cpu', *(x.device.type for x in streams if not x.is_meta)}))
        self._has_modes = self.modes.matters()
        self._draws = Draws(streams)
        self._inputs = streams

    def forward(self, start: int, stop: int) -> None:
        """Run steps ``[start, stop)``."""
        with self.modes.active() if self._has_modes else nullcontext():
            for index in range(start, stop):
                self._step(index)

    def _step(self, index: int) -> None:
        step, plan, streams = self.plan.steps[index], self.plan, self.streams
        assert streams is not None
        sources = list(map(streams.get, step.sources))
        needs = [self.needs_grad[part.stream] for part in step.sources]
        trains = bool(self._weights[index].trained) or True in needs
        if trains and index < self.first_trained:
            self.first_trained = index
        keep = plan.keep[index] if self.first_trained <= index else UNDO  # before it, the backward undoes nothing
        if keep == STATE:
            wanted = plan.needed[index] | {part.stream for part in step.sources}
            self.states.keep(index, streams, None if self.report else wanted)
        before = versions(sources)
        function = plan.functions[index]
        with function.running():
            record = Record(Replay(function, self._weights[index], self.modes, self._observes), needs, trains)
            with_graph = keep == GRAPH and record.trains and self.report is None
            inputs = list(map(Tensor.detach, sources))
            unknown = record.trains and index not in plan.observed
            # Until the first backward, what forward hooks take has a graph, so that the backward finds it.
            watched = unknown and not with_graph and function.has_hooks()
            observer = Observer(function, watched) if self._observes or unknown and with_graph or watched else None
            if with_graph or watched:
                for x, needed in zip(inputs, needs):
                    x.requires_grad_(needed)
                if observer:
                    observer.watch(inputs)
            begun = collectives() if self.overlap else 0
            notes = None if with_graph else record.replay.notes
            f = step.f if notes is None else partial(notes.write, step.f)
            # If nothing known needs a gradient, a graph costs nothing, and reveals a captured tensor that does.
            if with_graph or not record.trains or observer:
                with torch.set_grad_enabled(with_graph or watched or not record.trains), observer or nullcontext():
                    out = f(*inputs)
            else:
                out = f(*inputs)
            if self.overlap and collectives() != begun:
                self.overlap, self.communicates = False, plan.describe(index)
            draws = self._draws.used() if self._tracks_draws else []
            if draws or observer or function.buffers:
                record.replay.finish(draws, observer, plan.descriptions[index])
        target = None if step.creates else streams.get(step.target)
        out = check_output(step, plan.descriptions[index], function, self._weights[index], observer, inputs, before,
                           out, target, with_graph)
        keeps_graph = keep == GRAPH and self.report is None
        if watched:
            record.watched = observer
            refuse_other_gradients(inputs, plan.descriptions[index])
        if not keeps_graph:
            inputs.clear()
        del sources, target
        if streams.share_if_held(plan.read[index]):
            refuse_alias(out, [streams.tensors[i] for i in plan.read[index]], plan.descriptions[index])
        if keeps_graph:
            out = self._keep_graph(index, record, out, inputs, observer)
        self._apply(index, record, out)

    def _keep_graph(self, index: int, record: Record, out: Tensor, inputs: List[Tensor],
                    observer: Optional[Observer]) -> Tensor:
        step, streams = self.plan.steps[index], self.streams
        assert streams is not None
        likes = [streams.tensors[part.stream] for part in step.sources]
        record.kept = Evaluated(out, inputs, likes, observer, replayed=False)
        record.versions = list(map(version, (*inputs, out)))
        refuse_other_gradients(inputs, self.plan.descriptions[index])
        out = out.detach()
        if self.plan.undone[index]:
            record.out = out
        return out

    def _apply(self, index: int, record: Record, out: Tensor) -> None:
        step, streams = self.plan.steps[index], self.streams
        assert streams is not None
        if step.creates:
            streams.create(step.target, out.to(streams.get(step.sources[0]).dtype))
            self.needs_grad.append(record.trains)
        else:
            if self.report is not None:
                record.before = streams.get(step.target).clone()
            streams.add(step.target, out)
            self.needs_grad[step.target.stream] |= record.trains
        self.records.append(record)

    def finish(self) -> List[Tensor]:
        """Return the final streams; keep aliases of those that the undo reads, and versions to detect changes."""
        assert self.streams is not None
        outputs, self.streams = self.streams.aliases(), None
        if not self._tracks_draws and (draws := self._draws.used()):
            self._find_draws(draws)
        self._inputs = ()
        needed = self.plan.needed[-1] if self.report is None else range(len(outputs))
        self.final = [x.detach() if i in needed else None for i, x in enumerate(outputs)]
        self.output_versions = versions(outputs)
        if self._observes:
            for record in self.records:
                record.replay.settle()
            share_written(self.plan.functions, self.plan.descriptions)
            self.plan.forward_observed = True
            self.plan.tracks_draws = any(function.draws for function in self.plan.functions)
        return outputs

    def _find_draws(self, draws: Drawn) -> None:
        """Find the functions that drew random numbers, if none did in the first forward, by running the steps again."""
        plan = self.plan
        plan.tracks_draws = True

        def evaluate(index: int, sources: List[Tensor]) -> Tensor:
            replay, describe = self.records[index].replay, plan.descriptions[index]
            out = replay.run(plan.steps[index].f, sources, self.modes.matters(), describe)
            replay.finish(again.used(), None, describe)
            return out

        with rewound(draws):
            again = Draws(self._inputs)
            run_without_graph(plan.steps, [x.detach() for x in self._inputs], evaluate)
