"""Latency and throughput of a config's model on random images: the median of many runs, after a warm-up.

For a detector, backbone and neck are timed unless --part is given: the rest depends on the image.

Examples:
    python tools/analysis_tools/benchmark.py configs/parameter_free/pf-resnet50-max_4xb256_in1k.py --batch-size 1 8
    python tools/analysis_tools/benchmark.py configs/revbifpn/faster_rcnn_revbifpn_s0.py --shape 512 512 --threads 2
    python tools/analysis_tools/benchmark.py CONFIG --channels-last --compile --device cuda
"""
import argparse
import copy
import statistics
import sys
import time
from typing import Callable, List, NamedTuple, Optional

import torch
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from mmrev.cli.common import Parser, add_config_arguments, load_config, run_command
from mmrev.problems import ProblemError, phase

PARTS = ('features', 'backbone', 'tensor')


class Timing(NamedTuple):
    """Seconds that each run of ``batch`` images took."""
    batch: int
    seconds: List[float]

    @property
    def latency(self) -> float:
        """Median seconds of a run."""
        return statistics.median(self.seconds)

    @property
    def throughput(self) -> float:
        """Images per second at the median."""
        return self.batch / self.latency


def main(argv: Optional[List[str]] = None, prog: str = 'benchmark.py') -> int:
    """Print the figures; return the exit status."""
    return run_command(build_parser(prog), report, argv)


def build_parser(prog: str) -> argparse.ArgumentParser:
    """The flags."""
    parser = Parser(prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_config_arguments(parser)
    parser.add_argument('--shape', type=int, nargs=2, metavar=('H', 'W'), default=(224, 224),
                        help='of the images (default 224 224)')
    parser.add_argument('--batch-size', type=int, nargs='+', default=[1], help='one or several (default 1)')
    parser.add_argument('--part', choices=PARTS, default='features', help='backbone and neck (default), the backbone '
                        'alone, or all that gives tensors, heads included')
    parser.add_argument('--runs', type=int, default=30, help='timed runs per batch size (default 30)')
    parser.add_argument('--warmup', type=int, default=5, help='runs before those (default 5)')
    parser.add_argument('--threads', type=int, help="of PyTorch's operators on the CPU (default: PyTorch's choice)")
    parser.add_argument('--device', default='cpu', help='cpu (default) or cuda')
    parser.add_argument('--channels-last', action='store_true', help='lay images and weights out with channels last')
    parser.add_argument('--compile', action='store_true', help='torch.compile the model first')
    parser.add_argument('--train', action='store_true', help='time forward and backward in training mode')
    return parser


def report(args: argparse.Namespace) -> None:
    """Time and print."""
    MMLogger.get_current_instance().setLevel('WARNING')
    threads = 1 if args.threads is None else args.threads
    if min(*args.shape, *args.batch_size, args.runs, threads) < 1 or args.warmup < 0:
        raise ProblemError('--shape, --batch-size, --runs and --threads must be above 0', 'Give e.g. --batch-size 1 8')
    if args.threads:
        torch.set_num_threads(args.threads)
    cfg = load_config(args)
    if cfg.get('model') is None:
        raise ProblemError(f'{cfg.filename} has no `model`', 'Give the config of a classifier or detector')
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    with phase('the model cannot be built', f'Fix it in {cfg.filename}; --traceback shows where'):
        model = revert_sync_batchnorm(MODELS.build(copy.deepcopy(cfg.model)))
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    with phase(f'the model cannot be put on the device {args.device!r}', 'Give a --device that this PyTorch has'):
        model = model.to(args.device, memory_format=layout).train(args.train)
    run = part(model, args.part)
    run = torch.compile(run) if args.compile else run
    print(f'{args.config}: {args.part} of {cfg.model.type}, {args.shape[0]}x{args.shape[1]} pixels, {where(args)}')
    print(f'{"batch":>6} {"median ms":>10} {"fastest":>9} {"slowest":>9} {"images/s":>9}')
    for batch in args.batch_size:
        image = torch.randn(batch, 3, *args.shape, device=args.device).contiguous(memory_format=layout)
        with phase('the model does not run', 'Try another --shape or --batch-size; --traceback shows where'):
            timing = measure(run, image, args.train, args.warmup, args.runs)
        fastest, slowest = min(timing.seconds), max(timing.seconds)
        print(f'{batch:6} {1e3 * timing.latency:10.2f} {1e3 * fastest:9.2f} {1e3 * slowest:9.2f} '
              f'{timing.throughput:9.2f}')


def where(args: argparse.Namespace) -> str:
    """Conditions of the measurement, in words."""
    if torch.device(args.device).type == 'cuda':
        device = torch.cuda.get_device_name(args.device)
    else:
        threads = torch.get_num_threads()
        device = f'{args.device} with {threads} thread{"s" if threads > 1 else ""}'
    layout = 'channels last' if args.channels_last else 'channels first'
    mode = 'forward and backward' if args.train else 'inference'
    return f'{mode} on {device}, {layout}{", compiled" if args.compile else ""}, {args.runs} runs after {args.warmup}'


def part(model: nn.Module, name: str) -> Callable[[Tensor], object]:
    """The part of a model that is timed, as a function of images."""
    if name == 'tensor':
        return lambda image: model(image, data_samples(model, image), mode='tensor')
    if name == 'backbone' or getattr(model, 'neck', None) is None:
        return model.backbone
    return lambda image: model.neck(model.backbone(image))


def data_samples(model: nn.Module, image: Tensor) -> Optional[list]:
    """The data that a detector needs for each image: its size."""
    if not hasattr(model, 'bbox_head') and not hasattr(model, 'roi_head'):
        return None
    from mmdet.structures import DetDataSample
    size = tuple(image.shape[2:])
    return [DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size,
                                        scale_factor=(1., 1.))) for _ in image]


def measure(run: Callable[[Tensor], object], image: Tensor, train: bool, warmup: int, runs: int) -> Timing:
    """Time runs of a function, each until the device has finished.

    Args:
        run: Of images to a tensor, or nested tuples and lists of them.
        image: ``(B, C, H, W)``.
        train: Whether to differentiate the sum of all outputs as well.
        warmup: Runs before the timed ones.
        runs: Number of timed runs.
    """
    seconds = []
    for i in range(warmup + runs):
        synchronise(image.device)
        begin = time.perf_counter()
        with torch.set_grad_enabled(train):
            outputs = run(image)
        if train:
            sum(x.sum() for x in tensors(outputs)).backward()
        synchronise(image.device)
        if i >= warmup:
            seconds.append(time.perf_counter() - begin)
    return Timing(len(image), seconds)


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def tensors(outputs: object) -> List[Tensor]:
    """All tensors of nested tuples and lists."""
    if isinstance(outputs, Tensor):
        return [outputs]
    return [x for output in outputs for x in tensors(output)]


if __name__ == '__main__':
    sys.exit(main())
