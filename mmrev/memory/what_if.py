"""Predict a config with each method of saving memory."""
import copy
import inspect
from typing import Any, Callable, Dict, Iterator, NamedTuple, Optional, Tuple

from mmengine.config import Config
from mmengine.registry import MODELS

from mmrev.problems import ProblemError, one_line
from mmrev.registry import find

from .forecast import Forecast, Forecaster

PROCESSES = 8  # over which FSDP2 is predicted, unless the command line specifies a number


class Row(NamedTuple):
    """The effect of one method.

    Attributes:
        means: Name of the method.
        setting: Setting to add to the config.
        peak: Peak in bytes; ``None`` if the model cannot be trained with the method.
        macs: Multiply-accumulates of a step, relative to the unchanged config.
        made: Bytes that operators allocate in a step, relative to the unchanged config.
        function: Whether the network computes the same function.
    """
    means: str
    setting: str
    peak: Optional[int]
    macs: float
    made: float
    function: str


def what_if(cfg: Config, forecast: Forecast, use_mixed_precision: Callable[[Config], None], processes: int
            ) -> Iterator[Row]:
    """Predict the config with each method of saving memory.

    Args:
        cfg: The config.
        forecast: Forecast of the unchanged config.
        use_mixed_precision: Changes a config to train in bfloat16.
        processes: Number of processes that weights, gradients and optimizer state are divided over.
    """
    yield Row('as it is', '', forecast.peak, 1., 1., 'same')
    for means, setting, function, change in _changes(cfg, use_mixed_precision):
        changed = copy.deepcopy(cfg)
        batch = forecast.batch
        try:
            change(changed)
            if means == 'accumulation':
                batch = batch._replace(images=-(-batch.images // 2))
            found = Forecaster(changed)(batch)
        except ProblemError as error:
            yield Row(means, setting, None, 0., 0., f'not possible: {one_line(error)[:100]}')
            continue
        repeats = 2 if means == 'accumulation' else 1
        yield Row(means, setting, found.peak, repeats * found.macs / max(forecast.macs, 1),
                  repeats * found.made / forecast.made, function)
    n = processes if processes > 1 else PROCESSES
    yield Row(f'FSDP2 over {n} processes', 'see docs/own_projects.md', _divided(forecast, n), 1., 1., 'same')


def _divided(forecast: Forecast, processes: int) -> int:
    """Peak with weights, gradients and optimizer state divided; gathered weights are not counted."""
    shared = sum(forecast.fixed[key] for key in ('weights', 'optimizer')) + forecast.gradients_at_peak
    return forecast.peak - shared * (processes - 1) // processes


def _changes(cfg: Config, use_mixed_precision: Callable[[Config], None]
             ) -> Iterator[Tuple[str, str, str, Callable[[Config], Any]]]:
    """Name of each method, the setting, whether the function stays the same, and a function that changes the config."""
    def hook(**entry: Any) -> Callable[[Config], Any]:
        return lambda changed: changed.merge_from_dict(dict(custom_hooks=[*(cfg.get('custom_hooks') or ()), entry]))

    reversible = _switches(cfg.model)
    if reversible:
        yield ('reversible=False', ', '.join(f'{path}.reversible=False' for path in reversible), 'same',
               lambda changed: changed.merge_from_dict({f'{path}.reversible': False for path in reversible}))
    for level in ('cheap', 'blocks'):
        yield (f'save_memory {level}', f"custom_hooks=[dict(type='mmrev.SaveMemoryHook', level='{level}')]", 'same',
               hook(type='mmrev.SaveMemoryHook', level=level))
    yield ('InPlace-ABN', "custom_hooks=[dict(type='mmrev.InPlaceABNHook', relu='leaky')]", 'changed: leaky ReLU',
           hook(type='mmrev.InPlaceABNHook', relu='leaky'))
    yield 'bfloat16', '--amp', 'same, in lower precision', use_mixed_precision
    yield ('efficient_conv_bn_eval', "efficient_conv_bn_eval=['backbone']", 'same',
           lambda changed: changed.merge_from_dict(dict(efficient_conv_bn_eval=['backbone'])))
    if 'accumulative_counts' not in cfg.optim_wrapper:
        yield ('accumulation', 'optim_wrapper.accumulative_counts=2, half the batch size',
               'statistics of smaller batches',
               lambda changed: changed.optim_wrapper.update(accumulative_counts=2))
    yield ('optimizer within backward', "optim_wrapper.type='mmrev.OptimInBackwardWrapper'", 'same',
           lambda changed: changed.optim_wrapper.update(type='mmrev.OptimInBackwardWrapper'))


def _switches(model: Any) -> Dict[str, Any]:
    """The parts of a model config whose class has the argument `reversible`."""
    found = {}
    for name in ('backbone', 'neck', 'head'):
        entry = model.get(name)
        built = find(entry.get('type'), MODELS) if isinstance(entry, dict) else None
        if inspect.isclass(built) and 'reversible' in inspect.signature(built.__init__).parameters:
            found[f'model.{name}'] = built
    return found
