"""Time and memory of a training step: reversible, plain autograd and activation checkpointing, side by side.

    python benchmarks/run.py                  # time, memory (of transformers too), depth and peak, in eight minutes
    python benchmarks/run.py time --arch s0   # one part
    python benchmarks/run.py time --one-thread --rounds 40    # where the processor is shared
    python benchmarks/run.py time --arch revvit-s --time-size 224 224 --time-batch 4
    python benchmarks/run.py overhead         # overhead of a step besides its function
    python benchmarks/run.py overhead --whole-steps --processes 15 --rounds 25    # the same, from whole steps
    python benchmarks/run.py keep             # memory against time, by the share of steps that keep their graphs
    python benchmarks/run.py memory --memory revvit-s 224 224 --memory revvit-b 224 224 --memory revvit-l 224 224
    python benchmarks/run.py picture          # MACs against memory, with EfficientNet (needs timm)
    python benchmarks/run.py detectors        # whole detectors; needs 10 GB of memory and ten minutes

Nothing else should run on the machine while it times. Memory is counted on the meta device, where nothing is computed,
except by `detectors` and `depth`. Every figure in the README comes from one of these commands.
"""
import argparse
import json
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Dict, List

import networks
import numpy as np
import torch
from networks import MODES, build_backbone, bytes_per_image, train_step
from timing import time_rounds
from torch import nn

from mmrev.reversible import ReversibleSequence, StreamPart, TwoStreamCoupling
from mmrev.testing import PeakMemory

MIB = 2**20


def measure_time(args) -> Dict[str, List[float]]:
    """Seconds of a training step in each mode and of a forward without graph, of every round."""
    images = torch.randn(args.time_batch, 3, *args.time_size)
    models = {mode: build_backbone(args.arch, mode) for mode in (*MODES, 'bare')}

    def forward():
        with torch.no_grad():
            models['plain'](images)

    runs = {mode: partial(train_step, model, images) for mode, model in models.items()}
    runs['forward without graph'] = forward
    return time_rounds(runs, args.rounds, time.process_time if args.one_thread else time.perf_counter)


def report_time(args) -> dict:
    threads = torch.get_num_threads()
    if args.one_thread:
        torch.set_num_threads(1)
    taken = measure_time(args)
    unit = 'processor time of one thread' if args.one_thread else f'{threads} threads'
    torch.set_num_threads(threads)
    taken['floor'] = [plain + forward for plain, forward in zip(taken['plain'], taken['forward without graph'])]
    size = 'x'.join(map(str, args.time_size))
    print(f'Time of a training step: {networks.title(args.arch)}, {args.time_batch} images of {size}, '
          f'{unit}; medians of {args.rounds} rounds (range of their middle half)\n'
          '  floor: plain + forward without graph; bare: reversible without any safety')
    for name, values in taken.items():
        of_plain, of_floor = ([a / b for a, b in zip(values, taken[other])] for other in ('plain', 'floor'))
        low, middle, high = np.quantile(of_floor, (0.25, 0.5, 0.75))
        print(f'  {name:24s} {1e3 * statistics.median(values):8.1f} ms   {statistics.median(of_plain):5.3f} of plain   '
              f'{middle:5.3f} of the floor ({low:.3f} to {high:.3f})')
    return taken


def report_memory(args) -> dict:
    figures = {}
    print('Peak bytes alive per image in a training step: slope between %d and %d images, so without weights' %
          networks.MANY)
    for arch, height, width in args.memory:
        for mode in args.modes:
            network = networks.backbone(arch, int(height), int(width), mode)
            value = bytes_per_image(network) / MIB
            figures[f'{arch} {height}x{width} {mode}'] = value
            print(f'  {networks.title(arch)} backbone, {height}x{width}, {mode:12s} {value:8.1f} MiB', flush=True)
    return figures


def report_transformers(args) -> dict:
    figures = {}
    print('The same of transformers, 224x224')
    for network in networks.transformers():
        figures[network.name] = bytes_per_image(network) / MIB
        print(f'  {network.name:32s} {figures[network.name]:8.1f} MiB', flush=True)
    return figures


def report_depth(args) -> dict:
    """Peak bytes of two-stream blocks as the network gets deeper."""

    def peak(depth: int, reversible: bool) -> int:
        def f():
            return nn.Sequential(nn.Conv2d(32, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.Hardswish())

        parts = (StreamPart(0, 32, 64), StreamPart(0, 0, 32))
        model = ReversibleSequence([TwoStreamCoupling(f(), f(), parts) for _ in range(depth)], reversible)
        images = torch.randn(4, 64, 96, 96)
        with PeakMemory() as memory:
            sum(x.sum() for x in model(images)).backward()
        return memory.peak

    figures = {}
    print('Peak bytes of two-stream blocks on 4 x 64 x 96 x 96, weights\' gradients included, by depth')
    for reversible in (True, False):
        peaks = {depth: peak(depth, reversible) / MIB for depth in (8, 16, 32)}
        name = 'reversible' if reversible else 'plain'
        figures[name] = peaks
        print(f'  {name:12s}' + ''.join(f'  depth {d}: {v:7.1f} MiB' for d, v in peaks.items()))
    return figures


def report_picture(args) -> dict:
    import memory_picture
    return memory_picture.report(args.picture)


def report_peak(args) -> dict:
    import peak_parts
    return peak_parts.report([networks.classifier(6), networks.backbone('s3', 800, 1344)])


def report_detectors(args) -> dict:
    import detectors
    return detectors.report(args.detectors, tuple(args.detector_size))


def report_overhead(args) -> dict:
    import overhead
    return overhead.report(args.rounds, args.processes, args.whole_steps)


def report_keep(args) -> dict:
    import keep
    return keep.report(args.rounds)


PARTS = {'time': report_time, 'overhead': report_overhead, 'keep': report_keep, 'memory': report_memory,
         'transformers': report_transformers, 'depth': report_depth, 'peak': report_peak, 'picture': report_picture,
         'detectors': report_detectors}
DEFAULT = ('time', 'memory', 'transformers', 'depth', 'peak')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('parts', nargs='*', help=f'of {", ".join(PARTS)}; {", ".join(DEFAULT)} if none is given')
    parser.add_argument('--arch', default='s0', help=f'to time: s0 ... s6, {", ".join(networks.TRANSFORMERS)}')
    parser.add_argument('--time-size', type=int, nargs=2, default=[160, 160], metavar=('H', 'W'))
    parser.add_argument('--time-batch', type=int, default=8)
    parser.add_argument('--one-thread', action='store_true',
                        help='processor time of one thread, which leaves out the time of other jobs')
    parser.add_argument('--rounds', type=int, default=15, help='timed rounds, after two that are not')
    parser.add_argument('--processes', type=int, default=5, help='new processes that measure the overhead, in turn')
    parser.add_argument('--whole-steps', action='store_true',
                        help='the overhead as a difference of whole steps, which needs about 15 processes')
    parser.add_argument('--memory', nargs=3, action='append', metavar=('ARCH', 'H', 'W'),
                        help='may be repeated; default: s0 160 160 and s3 800 1344')
    parser.add_argument('--modes', nargs='+', choices=MODES, default=MODES, help='for memory')
    parser.add_argument('--picture', type=Path, default=Path('work_dirs/training_memory.png'), help='where to draw')
    parser.add_argument('--detectors', nargs='+', default=[], metavar='NAME', help='only those with this in their name')
    parser.add_argument('--detector-size', type=int, nargs=2, default=[800, 1344], metavar=('H', 'W'))
    parser.add_argument('--out', type=Path, default=Path('work_dirs/benchmark.json'), help='where the figures go')
    args = parser.parse_args()
    args.memory = args.memory or [('s0', 160, 160), ('s3', 800, 1344)]
    unknown = set(args.parts) - set(PARTS)
    if unknown:
        parser.error(f'no such part: {", ".join(sorted(unknown))}; choose from {", ".join(PARTS)}')
    figures = {name: PARTS[name](args) for name in args.parts or DEFAULT}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(figures, indent=1))
    print(f'The figures are in {args.out}')


if __name__ == '__main__':
    main()
