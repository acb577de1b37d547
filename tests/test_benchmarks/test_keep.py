"""The curve between undoing every step and plain autograd."""
from functools import partial

import keep

from mmrev.models.backbones import RevViT

ARCH = dict(embed_dims=16, num_layers=6, num_heads=2, feedforward_channels=64)


def test_memory_rises_to_that_of_plain_autograd_with_the_share_of_graphs():
    figures = keep.report(1, partial(RevViT, ARCH, 32, patch_size=8), (32, 32), 1)
    memory = [figure['mib'] for figure in figures.values()]
    assert list(figures) == [f'graph for {s}%' for s in (0, 25, 50, 75, 100)] + ['plain autograd']
    assert memory == sorted(memory[:-1]) + memory[-1:] and memory[4] / memory[5] < 1.05
    assert memory[0] < memory[5] / 3 and all(figure['ms'] > 0 for figure in figures.values())
