"""Measure the peak of a training step in a run, and explain an out-of-memory error."""
import contextlib
from collections import OrderedDict
from typing import Any, Callable, Iterator, List, NamedTuple, Optional, Tuple

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from torch import Tensor, nn

from mmrev.problems import ProblemError, one_line
from mmrev.side_effects import random_states_kept

from .budget import Plan, Planner
from .forecast import Forecast, Forecaster, describe, marked
from .report import mib
from .timeline import Allocation, Timeline
from .training import Batch

_OUT_OF_MEMORY = ('out of memory', "can't allocate memory", 'not enough memory', 'ALLOC_FAILED')
_LESS = 0.9  # budget to plan for, relative to the peak of the step that ran out of memory


class Peak(NamedTuple):
    """The peak of a step in bytes, and the operator that reached it."""
    bytes: int
    moment: str


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception reports that memory ran out, on the CPU or a GPU."""
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY))


@contextlib.contextmanager
def aside() -> Iterator[None]:
    """Restore the random states, the progress and the logged values of the run at the end of the block."""
    hub = MessageHub.get_current_instance()
    progress = {key: hub.get_info(key, 0) for key in ('iter', 'epoch')}
    scalars, hub._log_scalars = hub._log_scalars, OrderedDict()  # clipping logs the norm of gradients
    try:
        with random_states_kept():
            yield
    finally:
        hub.update_info_dict(progress)
        hub._log_scalars = scalars


def observe(model: nn.Module, optim_wrapper: Any, averaged: bool, data: Any, step: Callable[[], Any]
            ) -> Tuple[Any, Peak]:
    """Run a step and count its bytes.

    Args:
        model: The model.
        optim_wrapper: Its optimizer wrapper, whose state is counted.
        averaged: Whether there is a moving average of the weights.
        data: The batch.
        step: Runs the step.

    Returns:
        The output of the step, and its peak.
    """
    state = [x for entry in optim_wrapper.optimizer.state.values() for x in entry.values() if isinstance(x, Tensor)]
    weights = _nbytes([*model.parameters(), *model.buffers()])
    images = data['inputs']
    fixed = weights * (1 + averaged) + _nbytes(state) + _nbytes(images if isinstance(images, list) else [images])
    timeline = Timeline(model)
    gradients: List[Allocation] = []
    with marked(optim_wrapper, list(model.parameters()), timeline, gradients), timeline.following():
        output = step()
    timeline.marks.setdefault('backward', len(timeline.allocations))
    found = Forecast(Batch(0, 0, 0), {}, timeline, gradients)
    return output, Peak(fixed + found.peak, _moment(found.allocations[found.peak_at]))


def explain(cfg: Config, batch: Batch, plan: Optional[Plan], error: BaseException) -> ProblemError:
    """Explain why a step ran out of memory: what it needs, in which part, and the nearest plan that would fit.

    Args:
        cfg: Config of the run.
        batch: Size of the batch.
        plan: Plan that the step ran with, if any.
        error: The exception.
    """
    what = f'out of memory with {describe(batch)}' + f', up to {batch.objects} objects each' * bool(batch.objects)
    try:
        with aside():
            forecaster = Forecaster(cfg)
            planner = Planner(forecaster, batch, rounds=3)
            forecast = planner.forecast(plan.choices) if plan else forecaster(batch)
            nearest = planner(int(_LESS * forecast.peak))
    except Exception:  # a model that cannot be predicted
        return ProblemError(f'{what}: {one_line(error)}', 'Train smaller images or fewer at a time')
    at = forecast.allocations[forecast.peak_at]
    if nearest is None:
        fix = f'No plan needs much less (least {mib(planner.least.peak)}). Train smaller images or fewer at a time'
    else:
        fix = f'--memory-budget {-(-nearest.peak // 2**20)}MB would recompute more'
    return ProblemError(f'{what}: such a step needs {mib(forecast.peak)}, most in {_moment(at)}', fix)


def _moment(a: Allocation) -> str:
    return f'{a.phase} of {a.path or "code outside of all modules"} ({a.operator}, {"x".join(map(str, a.shape))})'


def _nbytes(tensors: Any) -> int:
    return sum({x.untyped_storage()._cdata: x.untyped_storage().nbytes() for x in tensors}.values())
