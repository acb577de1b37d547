"""A training step of a run that is watched: its peak, and what to say when memory runs out."""
import contextlib
import random
import warnings
from collections import OrderedDict
from typing import Any, Callable, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from torch import Tensor, nn

from mmrev.problems import ProblemError, one_line

from .budget import Plan, Planner
from .forecast import Forecast, Forecaster, describe, marked
from .report import mib
from .timeline import Allocation, Timeline
from .training import Batch

_OUT_OF_MEMORY = ('out of memory', "can't allocate memory", 'not enough memory', 'ALLOC_FAILED')
_LESS = 0.9  # of what a step needs that ran out of memory: the budget to look for


class Peak(NamedTuple):
    """The peak of a step that ran, and which part it was reached in."""
    bytes: int
    moment: str


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it says that memory ran out, on the CPU or a GPU."""
    return isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _OUT_OF_MEMORY))


@contextlib.contextmanager
def aside() -> Iterator[None]:
    """Leave the random state, what models read of the run, and what it logs, as they are."""
    hub = MessageHub.get_current_instance()
    iteration, states = hub.get_info('iter', 0), (random.getstate(), np.random.get_state())
    scalars, hub._log_scalars = hub._log_scalars, OrderedDict()  # clipping logs the norm of gradients
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices), warnings.catch_warnings():
            warnings.filterwarnings('ignore', 'Accessing the data pointer of FakeTensor')
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        hub.update_info('iter', iteration)
        hub._log_scalars = scalars


def observe(model: nn.Module, optim_wrapper: Any, averaged: bool, data: Any, step: Callable[[], Any]
            ) -> Tuple[Any, Peak]:
    """Run a step, and count its bytes.

    Args:
        model: The model.
        optim_wrapper: With the state of its optimizer.
        averaged: Whether there is a moving average of the weights.
        data: The batch.
        step: Runs it.
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
    """What to say when a step ran out of memory: what it needs and where, and the nearest plan that would fit.

    Args:
        cfg: Config of the run.
        batch: Its size.
        plan: The one that the step ran with.
        error: What was raised.
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
    return f'{a.phase} of {a.path or "what is outside of the parts"} ({a.operator}, {"x".join(map(str, a.shape))})'


def _nbytes(tensors: Any) -> int:
    return sum({x.untyped_storage()._cdata: x.untyped_storage().nbytes() for x in tensors}.values())
