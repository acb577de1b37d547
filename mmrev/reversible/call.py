"""One forward through the steps of a sequence: without a graph, in place on buffers of its own."""
from functools import partial
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from torch import Tensor

from .autocast import AutocastSnapshot
from .check import ReconstructionReport, active_report
from .function import NOTHING, Weights
from .generators import Drawn, Draws, rewound
from .inference import run_without_graph
from .observe import Observer
from .output import check_output
from .overlap import collectives, is_distributed
from .plan import GRAPH, STATE, Plan
from .record import Evaluated, Record
from .replay import Replay
from .streams import StreamBuffers, versions


class Call:
    """One forward; :class:`~mmrev.reversible.undo.Undo` is a backward of it.

    Args:
        plan: Plan of the sequence.
        overlap: Whether the backward should overlap steps; it does not if a step communicates.
    """

    def __init__(self, plan: Plan, overlap: bool = False):
        self.plan = plan
        self.records: List[Record] = []
        self.states: Dict[int, List[Tuple[Optional[Tensor], int]]] = {}  # with versions
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
        self._weights: List[Weights] = []
        self._observes = not plan.forward_observed
        # Processes that communicate must evaluate each function equally often.
        self._tracks_draws = plan.tracks_draws or is_distributed()

    def gather(self, start: int, stop: int) -> Dict[int, Tensor]:
        """Collect the weights of the next steps, ``[start, stop)``, that require grad, by ``id``."""
        found: Dict[int, Tensor] = {}
        for function in self.plan.functions[start:stop]:
            weights = function.weights()
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
        self._autocast = AutocastSnapshot(sorted({'cpu', *(x.device.type for x in streams if not x.is_meta)}))
        self._casts = self._autocast.matters()
        self._draws = Draws(streams)
        self._inputs = streams

    def forward(self, start: int, stop: int) -> None:
        """Run steps ``[start, stop)``."""
        with self._autocast.active() if self._casts else NOTHING:
            for index in range(start, stop):
                self._step(index)

    def _step(self, index: int) -> None:
        step, plan = self.plan.steps[index], self.plan
        streams = self.streams
        assert streams is not None
        keep = plan.keep[index]
        if keep == STATE:
            self._keep_state(index, streams)
        sources = [streams.get(part) for part in step.sources]
        before = versions(sources)
        needs = [self.needs_grad[part.stream] for part in step.sources]
        function = plan.functions[index]
        with function.running():
            record = Record(Replay(function, self._weights[index], self._autocast, self._observes), needs)
            with_graph = keep == GRAPH and record.trains and self.report is None
            inputs = [x.detach() for x in sources]
            observer = Observer() if self._observes or with_graph and index not in plan.observed else None
            if with_graph:
                for x, needed in zip(inputs, needs):
                    x.requires_grad_(needed)
                if observer:
                    observer.watch(inputs)
            begun = collectives() if self.overlap else 0
            notes = None if with_graph else record.replay.notes
            f = step.f if notes is None else partial(notes.write, step.f)
            # If nothing known needs a gradient, a graph costs nothing, and reveals a captured tensor that does.
            if with_graph or not record.trains or observer:
                with torch.set_grad_enabled(with_graph or not record.trains), observer or NOTHING:
                    out = f(*inputs)
            else:
                out = f(*inputs)
            if self.overlap and collectives() != begun:
                self.overlap, self.communicates = False, plan.describe(index)
            draws = self._draws.used() if self._tracks_draws else []
            if draws or observer or function.buffers:
                record.replay.finish(draws, observer, lambda: plan.describe(index))
        target = None if step.creates else streams.get(step.target)
        out = check_output(step, partial(plan.describe, index), function, self._weights[index], observer, sources,
                           before, out, target, with_graph)
        if keep == GRAPH and self.report is None:
            out = self._keep_graph(index, record, out, inputs, observer)
        self._apply(index, record, out)
        del sources, inputs
        streams.share_if_held(plan.read[index])

    def _keep_state(self, index: int, streams: StreamBuffers) -> None:
        wanted = self.plan.needed[index] | {part.stream for part in self.plan.steps[index].sources}
        self.states[index] = [(x, x._version) if x is not None and (self.report or i in wanted) else (None, 0)
                              for i, x in enumerate(streams.tensors)]
        streams.disown()

    def _keep_graph(self, index: int, record: Record, out: Tensor, inputs: List[Tensor],
                    observer: Optional[Observer]) -> Tensor:
        step, streams = self.plan.steps[index], self.streams
        assert streams is not None
        likes = [None if part.whole else streams.tensors[part.stream] for part in step.sources]
        record.kept = Evaluated(out, inputs, likes, observer, replayed=False)
        for part in step.sources:  # the graph holds them
            streams.share(part.stream)
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
        if record.trains:
            self.first_trained = min(self.first_trained, index)
        self.records.append(record)

    def finish(self) -> List[Tensor]:
        """Return the final streams; keep aliases of those that the undo reads, and versions to detect changes."""
        assert self.streams is not None
        outputs, self.streams = self.streams.aliases(), None
        if not self._tracks_draws and (draws := self._draws.used()):
            self._find_draws(draws)
        self._inputs = ()
        needed = self.plan.needed[-1]
        everything = self.report is not None
        self.final = [x.detach() if everything or i in needed else None for i, x in enumerate(outputs)]
        self.output_versions = versions(outputs)
        if self._observes:
            for record in self.records:
                record.replay.settle()
            self._share_written()
            self.plan.forward_observed = True
            self.plan.tracks_draws = any(function.draws for function in self.plan.functions)
        return outputs

    def _find_draws(self, draws: Drawn) -> None:
        """Find the functions that drew random numbers, if none did in the first forward, by running the steps again."""
        plan = self.plan
        plan.tracks_draws = True

        def evaluate(index: int, sources: List[Tensor]) -> Tensor:
            replay, describe = self.records[index].replay, partial(plan.describe, index)
            out = replay.run(plan.steps[index].f, sources, describe)
            replay.finish(again.used(), None, describe)
            return out

        with rewound(draws):
            again = Draws(self._inputs)
            run_without_graph(plan.steps, [x.detach() for x in self._inputs], evaluate)

    def _share_written(self) -> None:
        """Mark a buffer that one function writes as written in all functions that share it."""
        functions = self.plan.functions
        written = {id(owner[name]) for f in functions for i, (owner, name) in enumerate(f.buffers) if i in f.written}
        for f in functions:
            f.written |= {i for i, (owner, name) in enumerate(f.buffers) if id(owner.get(name)) in written}
