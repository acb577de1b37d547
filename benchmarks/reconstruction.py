"""How well RevViT's backward reconstructs its activations, by depth, and how that affects the gradients.

    python benchmarks/reconstruction.py                         # 4 ... 48 layers, float32 and bfloat16 autocast
    python benchmarks/reconstruction.py --depths 12 24 --cache-every 4 --width 192

Weights are those at the start of training. The error of a reconstruction is the largest of all steps, max|x' - x| /
max|x|. That of the gradients is the norm of their difference from plain autograd's, over the norm of the latter: in
float64 for float32, in float32 for bfloat16. Medians of several random weights and images.
"""
import argparse
import json
import statistics
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional

import torch
import torch.nn.functional as F
from mmengine.logging import MMLogger
from torch import Tensor, nn

from mmrev.models.backbones import RevViT
from mmrev.reversible import check_reconstruction

CLASSES = 10
CACHES = (12, 4)  # layers between stored states, if there are more layers


class Precision(NamedTuple):
    """How to compute, and how to compute the reference."""
    amp: bool
    reference: torch.dtype


PRECISIONS = {'float32': Precision(False, torch.float64), 'bfloat16': Precision(True, torch.float32)}


def build(depth: int, width: int, seed: int) -> nn.ModuleDict:
    """A classifier of 64x64 images, of 64 tokens each."""
    torch.manual_seed(seed)
    arch = dict(embed_dims=width, num_layers=depth, num_heads=max(1, width // 64), feedforward_channels=4 * width)
    backbone = RevViT(arch, img_size=64, patch_size=8)
    backbone.init_weights()
    return nn.ModuleDict(dict(backbone=backbone, head=nn.Linear(2 * width, CLASSES)))


def gradients(model: nn.ModuleDict, images: Tensor, reversible: bool, amp: bool,
              cache_every: Optional[int] = None) -> List[Tensor]:
    """Of a training step, in the order of the parameters."""
    model.zero_grad()
    layers = model.backbone.layers
    layers.reversible, layers.cache_every = reversible, cache_every
    with torch.autocast('cpu', torch.bfloat16, enabled=amp):
        scores = model.head(model.backbone(images)[0])
    labels = torch.arange(len(images)) % CLASSES
    F.cross_entropy(scores.to(torch.promote_types(scores.dtype, torch.float32)), labels).backward()
    return [p.grad.double() for p in model.parameters()]


def distance(ours: List[Tensor], exact: List[Tensor]) -> float:
    """Norm of the difference, over the norm of ``exact``."""
    off, of = (sum(x.square().sum() for x in xs) for xs in ([a - b for a, b in zip(ours, exact)], exact))
    return (off / of).sqrt().item()


def measure_once(depth: int, width: int, batch: int, precision: Precision, caches, seed: int) -> Dict:
    """Errors of plain autograd, and by ``cache_every`` of reversible training."""
    model = build(depth, width, seed)
    images = torch.randn(batch, 3, 64, 64)
    model.to(precision.reference)
    exact = gradients(model, images.to(precision.reference), reversible=False, amp=False)
    model.float()
    figures = {'plain': dict(gradient=distance(gradients(model, images, False, precision.amp), exact))}
    for every in caches:
        with check_reconstruction() as report:
            found = gradients(model, images, True, precision.amp, every)
        figures[every] = dict(reconstruction=report.worst.error, gradient=distance(found, exact))
    return figures


def measure(depth: int, width: int, batch: int, precision: Precision, caches, seeds: int) -> Dict:
    """Medians of :func:`measure_once`, and of the gradient's error over that of plain autograd."""
    runs = [measure_once(depth, width, batch, precision, caches, seed) for seed in range(seeds)]
    for run in runs:
        for figures in run.values():
            figures['over plain'] = figures['gradient'] / run['plain']['gradient']
    return {mode: {name: statistics.median(run[mode][name] for run in runs) for name in runs[0][mode]}
            for mode in runs[0]}


def main(argv=None):
    """Measure, print, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--depths', type=int, nargs='+', default=[4, 8, 12, 24, 48], help='layers')
    parser.add_argument('--cache-every', type=int, nargs='*', default=CACHES, help='layers between kept states')
    parser.add_argument('--width', type=int, default=192, help='channels')
    parser.add_argument('--batch', type=int, default=8)
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--out', type=Path, default='work_dirs/benchmark_reconstruction.json')
    args = parser.parse_args(argv)
    MMLogger.get_current_instance().setLevel('WARNING')  # initialization is logged weight by weight
    print(f'RevViT, {args.width} channels, {args.batch} images of 64 tokens, median of {args.seeds}')
    print(f'{"":10s}{"layers":>8s}{"cache_every":>13s}{"reconstruction":>16s}{"gradient":>11s}{"plain":>11s}'
          f'{"ratio":>7s}')
    everything = {}
    for name, precision in PRECISIONS.items():
        for depth in args.depths:
            caches = [None, *(every for every in args.cache_every if every < depth)]
            found = measure(depth, args.width, args.batch, precision, caches, args.seeds)
            for every in caches:
                row = found[every]
                print(f'{name:10s}{depth:8d}{every or "-":>13}{row["reconstruction"]:16.1e}{row["gradient"]:11.2e}'
                      f'{found["plain"]["gradient"]:11.2e}{row["over plain"]:7.2f}', flush=True)
            everything[f'{name} {depth}'] = {str(mode): figures for mode, figures in found.items()}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(everything, indent=2))
    print(f'The figures are in {args.out}')


if __name__ == '__main__':
    main()
