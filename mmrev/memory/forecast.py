"""The peak bytes of a training step, predicted without its arithmetic or counted in a real step."""
import contextlib
from collections import defaultdict
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import torch
from mmengine.config import Config
from torch import Tensor
from torch.utils._pytree import tree_map_only

from mmrev import compat
from mmrev.problems import ProblemError, phase

from .fake import Building, FakeStep
from .timeline import Allocation, Timeline
from .training import Batch, Training


class Forecast:
    """The allocations of a training step.

    Attributes:
        batch: Size of the batch.
        padded: Height and width of the images after the data preprocessor, if it returns one tensor.
        fixed: Bytes that live through the whole step, by kind: weights, optimizer state, moving average, batch.
        allocations: Allocations of the step, in order.
        marks: Number of allocations before backward and optimizer began.
        gradients: Bytes of the gradients of weights that are alive when backward ends.
        activations: Maximum of the bytes alive at once, without these gradients and without ``fixed``.
        peak: Maximum of the bytes alive at once.
        peak_at: Index of the allocation that reached the peak.
        gradients_at_peak: Bytes of the gradients of weights that are alive at the peak.
        macs: Multiply-accumulates of convolutions, matrix products and attention.
        made: Bytes of all tensors that the step allocated.
        forward_macs: Multiply-accumulates of the forward, by the path of the module.
        called: Paths of the modules whose forward ran.
    """

    def __init__(self, batch: Batch, fixed: Dict[str, int], timeline: Timeline, gradients: Sequence[Allocation],
                 padded: Optional[Tuple[int, int]] = None):
        self.batch, self.fixed, self.padded = batch, fixed, padded
        self.allocations, self.marks = timeline.allocations, timeline.marks
        self._gradients = {id(a) for a in gradients}
        self.gradients = sum(a.bytes for a in gradients)
        self.activations = max(self.alive([a for a in self.allocations if id(a) not in self._gradients]))
        alive = self.alive(self.allocations)
        self.peak_at = max(range(len(alive)), key=alive.__getitem__)
        self.peak = sum(fixed.values()) + alive[self.peak_at]
        self.gradients_at_peak = sum(self.at_peak(0)['gradients'].values())
        self.macs = timeline.macs
        self.forward_macs, self.called = timeline.forward_macs, timeline.called
        self.made = sum(a.bytes for a in self.allocations)

    def alive(self, allocations: Sequence[Allocation]) -> List[int]:
        """Bytes of the given allocations that are alive after each allocation of the step."""
        changes = [0] * (len(self.allocations) + 1)
        for a in allocations:
            changes[a.begin] += a.bytes
            if a.end is not None:
                changes[a.end] -= a.bytes
        total, sums = 0, []
        for change in changes[:-1]:
            total += change
            sums.append(total)
        return sums

    def kind(self, a: Allocation) -> str:
        """Kind of an allocation: ``'gradients'``, ``'kept for backward'`` or ``'temporary'``."""
        backward = self.marks['backward']
        if id(a) in self._gradients:
            return 'gradients'
        return 'kept for backward' if a.begin < backward and (a.end is None or a.end > backward) else 'temporary'

    def kept(self, depth: int) -> Dict[str, int]:
        """Bytes that the forward keeps for backward, by module path down to `depth`."""
        return _by_path((a for a in self.allocations if self.kind(a) == 'kept for backward'), depth)

    def at_peak(self, depth: int) -> Dict[str, Dict[str, int]]:
        """Bytes alive at the peak: by kind, then by module path down to `depth`."""
        found: Dict[str, List[Allocation]] = {'kept for backward': [], 'temporary': [], 'gradients': []}
        for a in self.allocations[:self.peak_at + 1]:
            if a.end is None or a.end > self.peak_at:
                found[self.kind(a)].append(a)
        return {kind: _by_path(allocations, depth) for kind, allocations in found.items()}


def _by_path(allocations: Any, depth: int) -> Dict[str, int]:
    sums: Dict[str, int] = defaultdict(int)
    for a in allocations:
        sums['.'.join(a.path.split('.')[:depth])] += a.bytes
    return dict(sums)


class Forecaster:
    """Predicts steps of a config, without computing what depends on images or weights.

    Args:
        cfg: The config.
        processes: Number of data-parallel processes; with several, the buckets of DDP hold a copy of the gradients.

    Raises:
        ProblemError: If the model or the optimizer cannot be built, or PyTorch is older than 2.5.
    """

    def __init__(self, cfg: Config, processes: int = 1):
        if not compat.can_predict_memory:
            raise ProblemError(f'a memory forecast needs PyTorch 2.5, this is {torch.__version__}', 'Update it')
        self._buckets = processes > 1
        building = Building()
        with building:
            self.training = Training(cfg, building.take_values)
        self._fake, self._values = building.fake, building.values

    def __call__(self, batch: Batch) -> Forecast:
        """Predict a step.

        Raises:
            ProblemError: If the step fails for such a batch.
        """
        if self.training.kind != 'mmdet':
            batch = batch._replace(objects=0)
        data = self.training.data(batch)
        data['inputs'] = tree_map_only(Tensor, self._fake.from_tensor, data['inputs'])
        with phase(f'a training step with {describe(batch)}',
                   'If the size of the images is the reason, try another --image; --traceback shows where it ended'):
            step = FakeStep(self.training.model, self._values)
            more = {'buckets of DDP': sum(w.nbytes for w in self.training.weights())} if self._buckets else {}
            return _run(self.training, batch, data, step, more)


class Counter:
    """Runs real steps of a config on the CPU with random weights, and counts their bytes.

    Args:
        cfg: The config.
    """

    def __init__(self, cfg: Config):
        self.training = Training(cfg)

    def __call__(self, batch: Batch) -> Forecast:
        """Run a step."""
        data = self.training.data(batch)
        data['inputs'] = tree_map_only(Tensor, lambda x: x.random_(256), data['inputs'])
        return _run(self.training, batch, data, Timeline(self.training.model), {})


def describe(batch: Batch) -> str:
    """The size of a batch, as in ``2 images of 800x1344``."""
    return f'{batch.images} image{"s" * (batch.images > 1)} of {batch.height}x{batch.width}'


def _run(training: Training, batch: Batch, data: Dict[str, Any], timeline: Timeline, more: Dict[str, int]
         ) -> Forecast:
    gradients: List[Allocation] = []
    images = data['inputs'] if isinstance(data['inputs'], list) else [data['inputs']]
    fixed = {**training.fixed_bytes(), 'batch': sum(x.nbytes for x in images), **more}
    del images
    counts = training.optim_wrapper._accumulative_counts
    if counts > 1:  # the last accumulation step, whose gradients are added to those of the others
        training.optim_wrapper.initialize_count_status(training.model, counts - 1, counts * 2)
        for weight in training.weights():
            weight.grad = torch.zeros_like(weight)
        fixed['accumulated gradients'] = sum(w.nbytes for w in training.weights())
    torch.manual_seed(0)
    padded: List[Optional[Tuple[int, int]]] = []
    handle = training.model.data_preprocessor.register_forward_hook(
        lambda module, args, out: padded.append(_size(out['inputs'])))
    try:
        with marked(training.optim_wrapper, training.weights(), timeline, gradients), timeline.following():
            training.model.train_step(data, training.optim_wrapper)
    finally:
        handle.remove()
    if 'backward' not in timeline.marks:
        raise ProblemError(f'{type(training.model).__name__}.train_step has not called optim_wrapper.backward',
                           'Such models are not supported')
    return Forecast(batch, fixed, timeline, gradients, next(iter(padded), None))


def _size(images: Any) -> Optional[Tuple[int, int]]:
    return (images.shape[-2], images.shape[-1]) if isinstance(images, Tensor) else None


@contextlib.contextmanager
def marked(optim_wrapper: Any, weights: Sequence[Tensor], timeline: Timeline, gradients: List[Allocation]
           ) -> Iterator[None]:
    """Record in the timeline when backward begins and ends, and which allocations are gradients at its end."""
    backward = optim_wrapper.backward

    def marking(loss: Tensor, **kwargs: Any) -> None:
        timeline.begin('backward')
        backward(loss, **kwargs)
        found = (timeline.find(p.grad) for p in weights if p.grad is not None)
        gradients.extend({id(a): a for a in found if a is not None}.values())
        timeline.begin('optimizer')

    optim_wrapper.backward = marking
    try:
        yield
    finally:
        del optim_wrapper.backward
