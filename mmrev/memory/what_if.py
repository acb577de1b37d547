"""The same config with each of the ways in which mmrev saves memory."""
import copy
import inspect
from typing import Any, Callable, Dict, Iterator, NamedTuple, Optional, Tuple

from mmengine.config import Config
from mmengine.registry import MODELS

from mmrev.problems import ProblemError, one_line
from mmrev.registry import find

from .forecast import Forecast, Forecaster

PROCESSES = 8  # over which FSDP2 is predicted, unless the command line says how many


class Row(NamedTuple):
    """What one means does.

    Attributes:
        means: Its name.
        setting: What to write into the config.
        peak: Bytes; ``None`` if the model cannot be trained with it.
        macs: Multiply-accumulates of a step, relative to the config's.
        made: Bytes that operators make in a step, relative to the config's.
        function: Whether the network computes the same.
    """
    means: str
    setting: str
    peak: Optional[int]
    macs: float
    made: float
    function: str


def what_if(cfg: Config, forecast: Forecast, use_mixed_precision: Callable[[Config], None], processes: int
            ) -> Iterator[Row]:
    """Predict the config with each way to save memory.

    Args:
        cfg: The config.
        forecast: Its own.
        use_mixed_precision: Changes a config to train in bfloat16.
        processes: Over which weights, gradients and the optimizer's state are divided.
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
            yield Row(means, setting, None, 0., 0., f'not here: {one_line(error)[:100]}')
            continue
        repeats = 2 if means == 'accumulation' else 1
        yield Row(means, setting, found.peak, repeats * found.macs / max(forecast.macs, 1),
                  repeats * found.made / forecast.made, function)
    n = processes if processes > 1 else PROCESSES
    yield Row(f'FSDP2 over {n} processes', 'see docs/own_projects.md', _divided(forecast, n), 1., 1., 'same')


def _divided(forecast: Forecast, processes: int) -> int:
    """Peak with weights, gradients and the optimizer's state divided; the largest gather is left out."""
    shared = sum(forecast.fixed[key] for key in ('weights', 'optimizer')) + forecast.gradients_at_peak
    return forecast.peak - shared * (processes - 1) // processes


def _changes(cfg: Config, use_mixed_precision: Callable[[Config], None]
             ) -> Iterator[Tuple[str, str, str, Callable[[Config], Any]]]:
    """Means, what to write into the config, whether the function stays, and how to change the config."""
    def hook(**entry: Any) -> Callable[[Config], Any]:
        return lambda changed: changed.merge_from_dict(dict(custom_hooks=[*(cfg.get('custom_hooks') or ()), entry]))

    reversible = _switches(cfg.model)
    if reversible:
        yield ('reversible=False', ', '.join(f'{path}.reversible=False' for path in reversible), 'same',
               lambda changed: changed.merge_from_dict({f'{path}.reversible': False for path in reversible}))
    for level in ('cheap', 'blocks'):
        yield (f'save_memory {level}', f"custom_hooks=[dict(type='mmrev.SaveMemoryHook', level='{level}')]", 'same',
               hook(type='mmrev.SaveMemoryHook', level=level))
    yield ('InPlace-ABN', "custom_hooks=[dict(type='mmrev.InPlaceABNHook', relu='leaky')]", 'another: leaky ReLU',
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
    """Parts of a model's config whose class has the argument `reversible`."""
    found = {}
    for name in ('backbone', 'neck', 'head'):
        entry = model.get(name)
        built = find(entry.get('type'), MODELS) if isinstance(entry, dict) else None
        if inspect.isclass(built) and 'reversible' in inspect.signature(built.__init__).parameters:
            found[f'model.{name}'] = built
    return found
