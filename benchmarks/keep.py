"""Memory against time: a reversible network that keeps the graphs of some of its steps.

``python benchmarks/run.py keep`` measures processor time of one thread. The graphs of the last steps are kept: they are
freed before the first step is undone.
"""
import statistics
import time
from functools import partial
from typing import Any, Callable, Dict, List, Tuple

import torch
from networks import Network, bytes_per_image, images, train_step
from timing import time_rounds
from torch import nn

from mmrev.models.backbones import RevViT
from mmrev.reversible import ReversibleSequence

SHARES = (0., 0.25, 0.5, 0.75, 1.)


def last_steps(share: float, steps: int) -> List[str]:
    """What each step keeps so that the last ``share`` of them keep their graphs."""
    kept = round(share * steps)
    return ['undo'] * (steps - kept) + ['graph'] * kept


def report(rounds: int, build: Callable[..., nn.Module] = partial(RevViT, 'deit-small', 96),
           shape: Tuple[int, int] = (96, 96), batch: int = 4) -> Dict[str, Dict[str, float]]:
    """Milliseconds of a training step and MiB per image, by what is kept."""
    sequence = next(m for m in build().modules() if isinstance(m, ReversibleSequence))
    steps = sum(len(coupling.steps()) for coupling in sequence.couplings)
    options: Dict[str, Dict[str, Any]] = {f'graph for {s:.0%}': dict(keep=last_steps(s, steps)) for s in SHARES}
    options['plain autograd'] = dict(reversible=False)
    networks = {name: Network(name, partial(build, **option), shape) for name, option in options.items()}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    x = images(networks['plain autograd'], batch, 'cpu')
    runs = {name: partial(train_step, network.build(), x) for name, network in networks.items()}
    seconds = time_rounds(runs, rounds, time.process_time)
    taken = {name: statistics.median(values) for name, values in seconds.items()}
    torch.set_num_threads(threads)
    print(f'Training step of {batch} images of {shape[0]}x{shape[1]}, {steps} steps, one thread, median of {rounds}')
    figures = {}
    for name, network in networks.items():
        figures[name] = dict(ms=1e3 * taken[name], mib=bytes_per_image(network) / 2**20)
        print(f'  {name:16s} {figures[name]["ms"]:8.1f} ms, {taken[name] / taken["plain autograd"]:5.2f} of plain'
              f'   {figures[name]["mib"]:7.2f} MiB an image')
    return figures
