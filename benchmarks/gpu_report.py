"""What `benchmarks/gpu_benchmark.py` measures, and how it reports."""
from functools import partial
from pathlib import Path
from typing import Callable, Iterator, List, NamedTuple, Optional

import torch
from networks import CLASSIFIER_SIZES, build_backbone, title
from torch import nn

from mmrev.models.backbones import IABNResNet, PFResNet
from mmrev.reversible import ReversibleSequence

REVERSIBLE_MODES = ('plain', 'checkpoint', 'reversible', 'overlapped')
COLOURS = {'plain': '#c8553d', 'checkpoint': '#4a5899', 'reversible': '#0b6e4f', 'overlapped': '#7bb662',
           'compiled': '#999999', 'InPlace-ABN': '#0b6e4f'}


class Case(NamedTuple):
    """A network in one of its modes, the side of its images in pixels, and the batch that is timed."""
    network: str
    mode: str
    build: Callable[[], nn.Module]
    side: int
    batch: int


class Row(NamedTuple):
    """Figures of a case in one precision; ``None`` where it did not fit."""
    case: Case
    precision: str
    milliseconds: Optional[float]  # per image
    mib: Optional[float]  # per image
    largest: Optional[int]  # images


def overlapped(arch: str) -> nn.Module:
    model = build_backbone(arch, 'reversible')
    for m in model.modules():
        if isinstance(m, ReversibleSequence):
            m.overlap = True
    return model


def compiled(arch: str) -> nn.Module:
    return torch.compile(build_backbone(arch, 'plain'))


def plain_resnet() -> nn.Module:
    from mmpretrain.models.backbones import ResNet
    return ResNet(50, out_indices=(0, 1, 2, 3))


def cases(tiny: bool) -> Iterator[Case]:
    """All that is measured; ``tiny``: one network of each kind, on images of 64 pixels."""
    batches = {'s0': 64, 's3': 32, 's6': 8, 'revvit-s': 64, 'revvit-l': 16}
    for arch, batch in list(batches.items())[:1 if tiny else None]:
        name, side = title(arch), 224 if arch.startswith('revvit') else CLASSIFIER_SIZES[int(arch[1])]
        side, batch = (64, 2) if tiny else (side, batch)
        for mode in REVERSIBLE_MODES:
            build = partial(overlapped, arch) if mode == 'overlapped' else partial(build_backbone, arch, mode)
            yield Case(name, mode, build, side, batch)
        if arch in ('s0', 'revvit-s') and not tiny:
            yield Case(name, 'compiled', partial(compiled, arch), side, batch)
    side, batch = (64, 2) if tiny else (224, 64)
    yield Case('ResNet-50', 'plain', plain_resnet, side, batch)
    yield Case('ResNet-50', 'InPlace-ABN', partial(IABNResNet, 50), side, batch)
    yield Case('R50-max', 'plain', partial(PFResNet, 50, operation='max'), side, batch)


def as_markdown(rows: List[Row], title: str) -> str:
    """A table: a line per network and mode, a pair of columns per precision."""
    lines = ['# Training steps on a GPU', '', title, '',
             '| network | image | mode | precision | ms per image | MiB per image | largest batch |',
             '|---|---|---|---|---|---|---|']
    for row in rows:
        figures = [f'{row.milliseconds:.2f}' if row.milliseconds is not None else 'does not fit',
                   f'{row.mib:,.1f}' if row.mib is not None else '-',
                   '-' if row.largest is None else str(row.largest)]
        lines.append(f'| {row.case.network} | {row.case.side} | {row.case.mode} | {row.precision} | '
                     + ' | '.join(figures) + ' |')
    return '\n'.join([*lines, ''])


def draw(rows: List[Row], path: Path) -> None:
    """Time and memory per image, by network and mode, in a row of bars for each precision."""
    from matplotlib.figure import Figure
    figure = Figure(figsize=(11, 7), dpi=130, layout='constrained')
    axes = figure.subplots(2, 2)
    networks = list(dict.fromkeys(row.case.network for row in rows))
    for column, precision in enumerate(('float32', 'AMP')):
        for line, attribute in enumerate(('milliseconds', 'mib')):
            axis, seen = axes[line][column], set()
            for i, network in enumerate(networks):
                mine = [row for row in rows if (row.case.network, row.precision) == (network, precision)]
                for j, row in enumerate(mine):
                    mode, place = row.case.mode, i + (j - (len(mine) - 1) / 2) / 6
                    axis.bar(place, getattr(row, attribute) or 0., 1 / 6, color=COLOURS[mode],
                             label=None if mode in seen else mode)
                    seen.add(mode)
            axis.set_xticks(range(len(networks)), networks, rotation=20, fontsize=8)
            axis.set_ylabel('ms per image' if attribute == 'milliseconds' else 'MiB per image')
            axis.set_title(precision, fontsize=10)
            axis.spines[['top', 'right']].set_visible(False)
    axes[0][0].legend(frameon=False, fontsize=8)
    figure.savefig(path)
