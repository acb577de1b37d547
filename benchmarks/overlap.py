"""Time of a training step with and without `overlap=True`, on a vision transformer of small operators.

    python benchmarks/overlap.py                   # a reversible ViT, 256 wide, 8 deep, 16 images of 32x32
    python benchmarks/overlap.py --threads 1 2     # with this many intra-op threads each

With `overlap` a second thread recomputes a block while the gradient of the following block is computed. Nothing else
may run on the machine at the same time.
"""
import argparse
import json
import statistics
from functools import partial
from pathlib import Path

import torch
from timing import time_rounds

from mmrev.models.backbones import RevViT
from mmrev.testing import PeakMemory


def build(args, overlap: bool) -> RevViT:
    torch.manual_seed(0)
    arch = dict(embed_dims=args.width, num_layers=args.depth, num_heads=args.width // 64,
                feedforward_channels=4 * args.width)
    return RevViT(arch, img_size=32, patch_size=4, overlap=overlap)


def step(model: RevViT, images: torch.Tensor) -> None:
    """Forward, backward, and no gradients left."""
    model(images)[0].sum().backward()
    model.zero_grad()


def measure(args, threads: int):
    """Median seconds with and without, and peak MiB."""
    torch.set_num_threads(threads)
    images = torch.randn(args.batch, 3, 32, 32)
    models = {name: build(args, name == 'overlap') for name in ('one by one', 'overlap')}
    taken = time_rounds({name: partial(step, model, images) for name, model in models.items()}, args.rounds)
    figures = {}
    for name, model in models.items():
        with PeakMemory() as memory:
            step(model, images)
        figures[name] = dict(seconds=statistics.median(taken[name]), peak=memory.peak / 2**20)
    return figures


def main(argv=None):
    """Measure, print, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--threads', type=int, nargs='+', default=[1, 2], help='intra-op threads')
    parser.add_argument('--width', type=int, default=256)
    parser.add_argument('--depth', type=int, default=8)
    parser.add_argument('--batch', type=int, default=16)
    parser.add_argument('--rounds', type=int, default=25, help='timed rounds, after two that are not')
    parser.add_argument('--out', type=Path, default='work_dirs/benchmark_overlap.json')
    args = parser.parse_args(argv)
    figures = {threads: measure(args, threads) for threads in args.threads}
    fastest = min(row['seconds'] for rows in figures.values() for row in rows.values())
    print(f'RevViT, {args.width} wide, {args.depth} deep, {args.batch} images of 32x32: median of {args.rounds} steps')
    for threads, rows in figures.items():
        for name, row in rows.items():
            print(f'  {threads} intra-op thread{"s" * (threads > 1)}, {name:12s}{1e3 * row["seconds"]:8.1f} ms   '
                  f'{rows["one by one"]["seconds"] / row["seconds"]:5.2f} times one by one   '
                  f'{row["seconds"] / fastest:5.2f} of the fastest   peak {row["peak"]:6.1f} MiB')
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(figures, indent=2))
    print(f'The figures are in {args.out}')


if __name__ == '__main__':
    main()
