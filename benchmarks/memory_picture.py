"""MACs against training memory: RevBiFPN, reversible and under plain autograd, and EfficientNet."""
from pathlib import Path
from typing import Dict, List

import networks
import torch
from networks import Network, build_on, bytes_per_image

from mmrev.analysis import count_operations

MIB = 2**20
SERIES = {  # name: its networks, small to large
    'RevBiFPN, reversible': [networks.classifier(size) for size in range(7)],
    'RevBiFPN, plain autograd': [networks.classifier(size, 'plain') for size in range(7)],
    'EfficientNet': [networks.efficientnet(size) for size in range(8)],
}
ABOVE, BELOW = (-5, 8), (5, -14)  # where a point's label is, in points from it
LOOKS = {  # color, marker, places of the labels; the two upper lines cross after S2 and B2
    'RevBiFPN, reversible': ('#0b6e4f', 'o', [BELOW] * 7),
    'RevBiFPN, plain autograd': ('#c8553d', 's', [ABOVE] * 3 + [BELOW] * 4),
    'EfficientNet': ('#4a5899', '^', [BELOW] * 3 + [ABOVE] * 5),
}


def measure(network: Network) -> Dict[str, float]:
    """Parameters, MACs as published figures count them and MiB per image in training; on the meta device."""
    model = build_on('meta', network)
    counts = count_operations(model, torch.empty(1, 3, *network.shape, device='meta'))['']
    return dict(resolution=network.shape[0], parameters=counts.parameters, macs=counts.published,
                mib=bytes_per_image(network) / MIB)


def report(picture: Path) -> Dict[str, List[dict]]:
    """Measure every network, print the table and draw the picture."""
    figures = {}
    print('| network | image | parameters (M) | MACs (G) | training memory per image (MiB) |\n|---|---|---|---|---|')
    for series, members in SERIES.items():
        figures[series] = []
        for network in members:
            found = dict(network=network.name, **measure(network))
            figures[series].append(found)
            print(f'| {found["network"]} | {found["resolution"]} | {found["parameters"] / 1e6:.1f} | '
                  f'{found["macs"] / 1e9:.2f} | {found["mib"]:,.1f} |', flush=True)
    draw(figures, picture)
    print(f'The picture is {picture}')
    return figures


def draw(figures: Dict[str, List[dict]], path: Path) -> None:
    """Draw what :func:`report` measured."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
    figure = Figure(figsize=(7.2, 5), dpi=150, layout='constrained')
    axes = figure.subplots()
    for series, points in figures.items():
        colour, marker, places = LOOKS[series]
        macs, mib = [point['macs'] / 1e9 for point in points], [point['mib'] for point in points]
        axes.loglog(macs, mib, color=colour, marker=marker, markersize=6, linewidth=1.6, label=series)
        for x, y, point, place in zip(macs, mib, points, places):
            size = point['network'].partition('-')[2].split(',')[0]
            axes.annotate(size, (x, y), place, textcoords='offset points', ha='center', fontsize=8.5, color=colour)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:,g}'))
        axis.set_minor_formatter(NullFormatter())
    axes.set_xlabel('billion multiply-accumulates per image')
    axes.set_ylabel('training memory per image (MiB)')
    axes.set_title('Training memory of ImageNet classifiers, each at its own resolution', fontsize=11)
    axes.grid(which='major', color='0.9')
    axes.margins(0.06, 0.1)
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(frameon=False, loc='upper left')
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
