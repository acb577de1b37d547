"""The work of the command ``mmrev memory``."""
import argparse
import contextlib
import logging
from typing import Callable, Dict, List

from mmengine.config import Config
from mmengine.logging import MMLogger

from mmrev.problems import ProblemError, phase
from mmrev.side_effects import try_writing_to

from .forecast import Forecast, Forecaster, describe
from .report import as_data, as_text, draw, mib, parse_bytes, write_json
from .search import Fit, largest
from .training import Batch, default_batch
from .what_if import Row, what_if

_SIDE = 32  # images grow by multiples of this many pixels
_MANY = 10 ** 6  # objects of a batch; an annotation is made for each


def run(cfg: Config, args: argparse.Namespace, use_mixed_precision: Callable[[Config], None]) -> None:
    """Predict, print and write what the arguments request."""
    MMLogger.get_current_instance().setLevel('ERROR')
    logging.getLogger('torch._subclasses.fake_tensor').setLevel(logging.CRITICAL)  # the exception says the same
    memory = None if args.gpu_memory is None else parse_bytes(args.gpu_memory)
    margin = parse_bytes(args.margin)
    if memory is not None and margin >= memory:
        raise ProblemError(f'--margin {args.margin} leaves nothing of --gpu-memory {args.gpu_memory}', 'Lower it')
    for key in ('model', 'optim_wrapper'):
        if cfg.get(key) is None:
            raise ProblemError(f'{cfg.filename} has no `{key}`', 'Give a config that trains')
    if min(1 if args.batch is None else args.batch, args.depth, args.processes, *args.image or (1, )) < 1:
        raise ProblemError('--image, --batch, --depth and --processes must be above 0', 'Fix them')
    if args.objects < 0:
        raise ProblemError(f'--objects must be at least 0, got {args.objects}', 'Fix it')
    for file in filter(None, (args.json, args.picture)):
        with phase(f'writing `{file}`', 'Name another file'):
            try_writing_to(file)
    batch = _batch(cfg, args)
    forecaster = Forecaster(cfg, args.processes)
    with phase(f'a step with {batch.images} images of {batch.height}x{batch.width}', 'Choose a smaller batch'):
        forecast = forecaster(batch)
    print(f'{args.config}: {cfg.model.type}, {as_text(forecast, args.depth)}')
    rates = slopes(forecaster, forecast)
    print(''.join(f'{mib(rate)} more for {what}\n' for what, rate in rates.items()), end='')
    fits = {}
    if memory is not None:
        fits = largest(forecaster, forecast, memory - margin)
        print(_verdict(forecast, fits, memory, margin))
    found: List[Row] = []
    for row in what_if(cfg, forecast, use_mixed_precision, args.processes) if args.what_if else ():
        print(_line(row, first=not found), flush=True)
        found.append(row)
    if args.json:
        with phase(f'writing `{args.json}`', 'Name another file'):
            write_json(dict(as_data(forecast, args.depth), config=args.config, slopes=rates,
                            what_if=[row._asdict() for row in found],
                            largest={name: fit._asdict() for name, fit in fits.items()}), args.json)
    if args.picture:
        with phase(f'drawing `{args.picture}`', 'Name another file, ending in .png'):
            draw(forecast, args.picture, args.depth, f'{args.config}\n', memory and memory - margin)


def _batch(cfg: Config, args: argparse.Namespace) -> Batch:
    with phase('reading train_dataloader.batch_size', 'Fix it, or give --batch N'):
        images = args.batch or int((cfg.get('train_dataloader') or {}).get('batch_size') or 1)
    if images < 1 or images * args.objects > _MANY:
        raise ProblemError(f'the batch has {images} images with {args.objects} objects each',
                           'Fix train_dataloader.batch_size, or give --batch N and --objects K')
    height, width = args.image or default_batch(cfg)[1:3]
    return Batch(images, height, width, args.objects)


def slopes(forecaster: Forecaster, forecast: Forecast) -> Dict[str, float]:
    """Growth of the peak in bytes, for each dimension of the batch that may vary."""
    batch, found = forecast.batch, {}
    wider = batch._replace(width=batch.width + max(_SIDE, batch.width // 4 // _SIDE * _SIDE))
    more = {'each image': (batch._replace(images=batch.images + 1), 1),
            'each megapixel of images': (wider, (wider.width - batch.width) * batch.height * batch.images / 1e6)}
    if forecaster.training.kind == 'mmdet':
        objects = max(batch.objects, 1)
        more['each object in every image'] = batch._replace(objects=batch.objects + objects), objects
    for what, (other, step) in more.items():
        with contextlib.suppress(ProblemError):  # a transformer takes images of one size
            found[what] = (forecaster(other).peak - forecast.peak) / step
    return found


def _verdict(forecast: Forecast, fits: Dict[str, Fit], memory: int, margin: int) -> str:
    left = memory - margin - forecast.peak
    lines = [f'{"It fits" if left >= 0 else "It does not fit"} into {mib(memory)}, of which {mib(margin)} are left to '
             f'CUDA, cuDNN and the allocator (not measured): {mib(abs(left))} {"to spare" if left >= 0 else "missing"}']
    for name, fit in fits.items():
        lines.append(f'Largest {name}: ' + (f'{describe(fit.batch)}, {mib(fit.peak)}' if fit.batch else 'none'))
    return '\n'.join(lines)


def _line(row: Row, first: bool) -> str:
    head = f'{"what if":28s}{"peak":>14s}{"MACs":>7s}{"made":>7s}  function\n' if first else ''
    if row.peak is None:
        return f'{head}{row.means:28s}{"":28s}  {row.function}'
    return (f'{head}{row.means:28s}{mib(row.peak):>14s}{row.macs:7.2f}{row.made:7.2f}  {row.function}' +
            f'  [{row.setting}]' * bool(row.setting))
