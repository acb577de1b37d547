"""Overhead of a step of a reversible network: ours, a bare reversible function, checkpointing.

``python benchmarks/run.py overhead`` measures processor time of one thread. The overhead is a small difference of large
times, to which a processor that is shared with others only adds, even to processor time. So it is a difference of lower
quartiles.
"""
import statistics
import time
from functools import partial
from multiprocessing import get_context
from typing import Callable, Dict, List, Sequence, Tuple

import bare
import numpy as np
import torch
from networks import chained
from timing import time_rounds
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmrev.models.backbones import RevBiFPN, RevViT
from mmrev.reversible import AdditiveStep, ReversibleSequence, TwoStreamCoupling
from mmrev.reversible.plain import run_plain


def _two_streams(f: nn.Module, g: nn.Module, a: Tensor, b: Tensor) -> Tuple[Tensor, Tensor]:
    a = a + f(b)
    return a, b + g(a)


Block = Callable[..., Tuple[Tensor, ...]]


def revvit(depth: int = 24) -> Tuple[List[nn.Module], List[Block], List[Block], List[Tensor]]:
    """The blocks of a small RevViT of 65 tokens, 64 wide: couplings, their plain form, the bare one, and the input."""
    arch = dict(embed_dims=64, num_layers=depth, num_heads=2, feedforward_channels=128)
    model = RevViT(arch, img_size=32, patch_size=4)
    pairs = [(m.f, m.g) for m in model.modules() if isinstance(m, TwoStreamCoupling)]
    plain, unsafe = [partial(_two_streams, *pair) for pair in pairs], [bare.two_streams(*pair) for pair in pairs]
    streams = [torch.randn(1, 65, 64) for _ in range(2)]
    return [TwoStreamCoupling(*pair) for pair in pairs], plain, unsafe, streams


def revbifpn() -> Tuple[List[nn.Module], List[Block], List[Block], List[Tensor]]:
    """The stages of RevBiFPN-S0 on two images of 64 x 64: as :func:`revvit`."""
    model = RevBiFPN('s0').train()
    couplings = list(model.stages.couplings)
    steps = [coupling.steps() for coupling in couplings]
    plain, unsafe = [partial(_plain_steps, s) for s in steps], [bare.run_steps(s) for s in steps]
    return couplings, plain, unsafe, [model._stem(torch.randn(2, 3, 64, 64))]


NETWORKS = {'RevViT': revvit, 'RevBiFPN-S0': revbifpn}
MORE_ROUNDS = {'RevViT': 4}  # times as many, each of which takes a fifth of the time


def _plain_steps(steps: Sequence[AdditiveStep], *streams: Tensor) -> Tuple[Tensor, ...]:
    return run_plain(steps, streams)


def _runs(couplings: Sequence[nn.Module], plain: Sequence[Block], unsafe: Sequence[Block],
          streams: Sequence[Tensor]) -> Dict[str, Callable[[], None]]:
    weights = [p for coupling in couplings for p in coupling.parameters()]

    def step(network: Callable) -> None:
        sum(x.sum() for x in network(*[x.detach().requires_grad_() for x in streams])).backward()
        for p in weights:
            p.grad = None

    def forward() -> None:
        with torch.no_grad():
            chained(plain, *streams)

    ways: Dict[str, Callable] = {'plain': partial(chained, plain), 'bare': partial(chained, unsafe),
                                 'reversible': ReversibleSequence(couplings)}
    for name, reentrant in (('checkpoint, reentrant', True), ('checkpoint, not reentrant', False)):
        ways[name] = partial(chained, [partial(checkpoint, block, use_reentrant=reentrant) for block in plain])
    return {**{name: partial(step, network) for name, network in ways.items()}, 'forward': forward}


def report(rounds: int, processes: int) -> Dict[str, Dict[str, float]]:
    """Overhead per step in microseconds: a training step, minus a plain one, minus a forward without a graph.

    The median of new processes, by the ratio to the bare one: where memory lies shifts that by 0.2 between processes.
    """
    figures = {}
    for name in NETWORKS:
        count = rounds * MORE_ROUNDS.get(name, 1)
        with get_context('spawn').Pool(1, maxtasksperchild=1) as pool:
            measured = pool.starmap(_measure, [(name, count)] * processes, chunksize=1)
        print(f'Beside its function a step costs: {name}, one thread, lower quartile of {count} rounds in each of '
              f'{processes} processes')
        figures[name] = {kind: statistics.median(m[kind] for m in measured) for kind in measured[0]}
        for kind, value in figures[name].items():
            ratios = sorted(m[kind] / m['bare'] for m in measured)
            print(f'  {kind:26s} {value:8.0f} us, {statistics.median(ratios):5.2f} of the bare one '
                  f'({ratios[0]:.2f} to {ratios[-1]:.2f})')
    return figures


def _measure(name: str, rounds: int) -> Dict[str, float]:
    torch.set_num_threads(1)
    couplings, *others = NETWORKS[name]()
    runs = _runs(couplings, *others)
    seconds = {kind: np.quantile(values, 0.25) for kind, values in time_rounds(runs, rounds, time.process_time).items()}
    steps = sum(len(coupling.steps()) for coupling in couplings)
    floor = seconds['plain'] + seconds['forward']
    return {kind: 1e6 * (seconds[kind] - floor) / steps for kind in runs if kind not in ('plain', 'forward')}
