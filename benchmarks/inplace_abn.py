"""InPlace-ABN compared with batch norm and in-place ReLU, activation checkpointing and efficient_conv_bn_eval.

    python benchmarks/inplace_abn.py                # memory, a minute; time, about ten on two cores
    python benchmarks/inplace_abn.py memory         # one part

Memory is bytes per image: kept for backward after the forward, and at the peak of a training step; the slope between 32
and 64 images on the meta device, where nothing is computed, so weights and their gradients are not included. Nothing
else may run on the machine while it times.
"""
import argparse
import json
import statistics
from functools import partial
from pathlib import Path
from typing import Callable, Dict, NamedTuple, Optional, Tuple

import torch
from networks import MANY, total
from timing import time_rounds
from torch import nn

import mmrev.models  # noqa: F401
from mmrev.layers import InPlaceABN
from mmrev.surgery import convert_batchnorm
from mmrev.models.backbones import IABNResNeXt
from mmrev.testing import PeakMemory

MIB = 2**20
PLAIN = 'batch norm, in-place ReLU'


class Case(NamedTuple):
    """A network in several forms, the size of its images, and the batch and size that are timed."""
    name: str
    forms: Dict[str, Callable[[], nn.Module]]
    size: Tuple[int, int]
    timed_size: Tuple[int, int]
    timed_batch: int


def convolutions(norm: Callable[[], Tuple[nn.Module, ...]]) -> nn.Module:
    layers = [nn.Sequential(nn.Conv2d(64, 64, 3, padding=1, bias=False), *norm()) for _ in range(16)]
    return nn.Sequential(nn.Conv2d(3, 64, 3, padding=1, bias=False), *layers)


def classifier(relu: Optional[str] = None, **kwargs) -> nn.Module:
    """mmpretrain's ResNet-50, which uses the statistics of the batch."""
    from mmpretrain.registry import MODELS
    model = MODELS.build(dict(type='mmpretrain.ResNet', depth=50, **kwargs))
    model.train()
    if relu:
        assert not convert_batchnorm(model, relu).kept
    return model


def detector_backbone(convert: bool = False, efficient: bool = False, **kwargs) -> nn.Module:
    """The backbone of mmdet's R50-FPN: running statistics, first stage frozen."""
    from mmdet.registry import MODELS
    from mmengine.model.efficient_conv_bn_eval import turn_on_efficient_conv_bn_eval
    model = MODELS.build(dict(type='mmdet.ResNet', depth=50, norm_eval=True, frozen_stages=1, **kwargs))
    model.train()
    if efficient:
        model = nn.Sequential(model)
        turn_on_efficient_conv_bn_eval(model, '0')
    if convert:
        assert not convert_batchnorm(model).kept
    return model


def cases():
    """What is measured."""
    norm_relu = dict(type='mmrev.BatchNormAct', activation='relu')
    return [
        Case('16 convolutions of 64 channels', {
            PLAIN: lambda: convolutions(lambda: (nn.BatchNorm2d(64), nn.ReLU(inplace=True))),
            'InPlace-ABN': lambda: convolutions(lambda: (InPlaceABN(64), ))}, (56, 56), (56, 56), 4),
        Case('ResNet-50, statistics of the batch', {
            PLAIN: classifier,
            'the same, with_cp=True': lambda: classifier(with_cp=True),
            'InPlace-ABN': lambda: classifier('leaky')}, (224, 224), (224, 224), 4),
        Case("R50-FPN's backbone, norm_eval, first stage frozen", {
            PLAIN: detector_backbone,
            'the same, with_cp=True': lambda: detector_backbone(with_cp=True),
            'efficient_conv_bn_eval': lambda: detector_backbone(efficient=True),
            'InPlace-ABN': lambda: detector_backbone(convert=True)}, (800, 1344), (320, 320), 2),
        Case('ResNeXt-101 64x, pre-activation', {
            PLAIN: lambda: IABNResNeXt(101, norm_cfg=norm_relu),
            'InPlace-ABN': lambda: IABNResNeXt(101)}, (224, 224), (224, 224), 4),
    ]


def step(model: nn.Module, images: torch.Tensor) -> None:
    """Forward, backward of the outputs' sum, and no gradients left."""
    total(model(images)).backward()
    model.zero_grad()


def measure_memory(build: Callable[[], nn.Module], size: Tuple[int, int]) -> Tuple[float, float]:
    """MiB per image: kept after the forward, and at the peak."""

    def run(batch: int):
        model = build().to('meta')
        for p in model.parameters():
            p.grad = torch.zeros_like(p) if p.requires_grad else None
        images = torch.empty(batch, 3, *size, device='meta')
        with PeakMemory() as memory:
            outputs = model(images)
            kept = memory.current
            total(outputs).backward()
        return kept, memory.peak

    few, many = (run(batch) for batch in MANY)
    return tuple((b - a) / (MANY[1] - MANY[0]) / MIB for a, b in zip(few, many))


def measure_time(forms: Dict[str, Callable[[], nn.Module]], size: Tuple[int, int], batch: int, rounds: int):
    """Median seconds of a training step of each form."""
    torch.manual_seed(0)
    images = torch.randn(batch, 3, *size)
    taken = time_rounds({name: partial(step, build(), images) for name, build in forms.items()}, rounds)
    return {name: statistics.median(values) for name, values in taken.items()}


def main(argv=None):
    """Measure, print a table per network, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n', 1)[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('parts', nargs='*', default=['memory', 'time'], help='of memory, time')
    parser.add_argument('--rounds', type=int, default=11, help='timed rounds, after two that are not')
    parser.add_argument('--out', type=Path, default='work_dirs/benchmark_inplace_abn.json')
    args = parser.parse_args(argv)
    unknown = set(args.parts) - {'memory', 'time'}
    if unknown:
        parser.error(f'unknown part: {", ".join(sorted(unknown))}; there are memory and time')
    figures = {}
    for case in cases():
        print(f'{case.name}: memory at {case.size[0]}x{case.size[1]}, time of {case.timed_batch} of '
              f'{case.timed_size[0]}x{case.timed_size[1]} on {torch.get_num_threads()} threads')
        rows = {name: {} for name in case.forms}
        if 'memory' in args.parts:
            for name, build in case.forms.items():
                rows[name]['kept'], rows[name]['peak'] = measure_memory(build, case.size)
        if 'time' in args.parts:
            for name, value in measure_time(case.forms, case.timed_size, case.timed_batch, args.rounds).items():
                rows[name]['seconds'] = value
        for name, row in rows.items():
            print(f'  {name:28s}' + ''.join(f'  {key} {shown(key, value)} ({value / rows[PLAIN][key]:.3f})'
                                            for key, value in row.items()), flush=True)
        figures[case.name] = rows
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(figures, indent=2))
    print(f'The figures are in {args.out}')


def shown(key: str, value: float) -> str:
    return f'{1e3 * value:8.1f} ms' if key == 'seconds' else f'{value:8.1f} MiB'


if __name__ == '__main__':
    main()
