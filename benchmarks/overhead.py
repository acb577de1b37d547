"""Overhead of a step of a reversible network: ours, a bare reversible function, checkpointing.

``python benchmarks/run.py overhead`` measures processor time of one thread, by a clock that stands still while the
network's own functions run. A difference of whole steps is a small difference of large times: on a processor that is
shared with others it spreads by a third of its value, so ``--whole-steps`` needs more processes. It credits the engine
with the memory that it reads first and that the functions then find in the cache; the clock does not.
"""
import statistics
import time
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from typing import Any, Callable, Dict, List, Sequence, Tuple
from unittest.mock import patch

import bare
import torch
from networks import chained
from timing import time_rounds
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmrev import compat
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
REENTRANT, NOT_REENTRANT = 'checkpoint, reentrant', 'checkpoint, not reentrant'


class _Clock:
    """Processor time, without that of the functions and of their gradients.

    The gradients of a function are the backwards within a backward. Where there are none, as in plain autograd, the
    gradients are the backward itself, which :meth:`without` leaves out.
    """

    def __init__(self) -> None:
        self._left_out = 0.
        self._in_backward = False

    def __call__(self) -> float:
        return time.process_time() - self._left_out

    def without(self, run: Callable, *args: Any, **options: Any) -> Any:
        begin, before = time.process_time(), self._left_out
        try:
            return run(*args, **options)
        finally:
            self._left_out = before + time.process_time() - begin

    def backward(self, run: Callable, *args: Any, **options: Any) -> Any:
        if self._in_backward:
            return self.without(run, *args, **options)
        self._in_backward = True
        try:
            return run(*args, **options)
        finally:
            self._in_backward = False


class _Engine:
    """Autograd's engine with another ``run_backward``."""

    def __init__(self, run_backward: Callable):
        self._engine = torch.autograd.Variable._execution_engine
        self.run_backward = run_backward

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


def _plain_steps(steps: Sequence[AdditiveStep], *streams: Tensor) -> Tuple[Tensor, ...]:
    return run_plain(steps, streams)


def _runs(clock: _Clock, couplings: Sequence[nn.Module], plain: Sequence[Block], unsafe: Sequence[Block],
          streams: Sequence[Tensor]) -> Dict[str, Callable[[], None]]:
    weights = [p for coupling in couplings for p in coupling.parameters()]

    def step(network: Callable, backward: Callable = Tensor.backward) -> None:
        backward(sum(x.sum() for x in network(*[x.detach().requires_grad_() for x in streams])))
        for p in weights:
            p.grad = None

    def forward() -> None:
        with torch.no_grad():
            chained(plain, *streams)

    ways: Dict[str, Callable] = {'plain': partial(chained, plain), 'bare': partial(chained, unsafe),
                                 'reversible': ReversibleSequence(couplings)}
    for name, reentrant in ((REENTRANT, True), (NOT_REENTRANT, False)):
        ways[name] = partial(chained, [partial(checkpoint, block, use_reentrant=reentrant) for block in plain])
    runs = {name: partial(step, network) for name, network in ways.items()}
    without = partial(step, ways['plain'], partial(clock.without, Tensor.backward))
    return {**runs, 'plain without backward': without, 'forward': forward}


def report(rounds: int, processes: int, whole_steps: bool = False) -> Dict[str, Dict[str, float]]:
    """Overhead per step in microseconds: a training step, minus a plain one, minus a forward without a graph.

    The median of new processes, because where memory lies shifts it.

    Args:
        rounds: In each process, at least.
        processes: New processes, one after another.
        whole_steps: Subtract times of whole steps, instead of stopping the clock while functions run.
    """
    figures = {}
    for name in NETWORKS:
        count = rounds * MORE_ROUNDS.get(name, 1)
        with get_context('spawn').Pool(1, maxtasksperchild=1) as pool:
            measured = pool.starmap(_measure, [(name, count, whole_steps)] * processes, chunksize=1)
        how = ', from whole steps' if whole_steps else ''
        print(f'Beside its function a step costs{how}: {name}, one thread, median of {count} rounds in each of '
              f'{processes} processes')
        figures[name] = {kind: statistics.median(m[kind] for m in measured) for kind in measured[0]}
        for kind, value in figures[name].items():
            ratios = sorted(m[kind] / m['bare'] for m in measured)
            print(f'  {kind:26s} {value:8.0f} us, {statistics.median(ratios):5.2f} of the bare one '
                  f'({ratios[0]:.2f} to {ratios[-1]:.2f})')
    return figures


def _measure(network: str, rounds: int, whole_steps: bool) -> Dict[str, float]:
    torch.set_num_threads(1)
    couplings, *others = NETWORKS[network]()
    steps = [step for coupling in couplings for step in coupling.steps()]
    clock = _Clock()
    with ExitStack() as stack:
        if not whole_steps:
            for f in {id(step.f): step.f for step in steps}.values():
                stack.enter_context(patch.object(f, 'forward', partial(clock.without, f.forward)))
            engine = _Engine(partial(clock.backward, compat._run_backward))
            stack.enter_context(patch.object(compat, '_run_backward', engine.run_backward))
            stack.enter_context(patch.object(torch.autograd.Variable, '_execution_engine', engine))
        taken = time_rounds(_runs(clock, couplings, *others), rounds, clock)
    seconds = {kind: statistics.median(values) for kind, values in taken.items()}
    plain, without_backward, forward = map(seconds.pop, ('plain', 'plain without backward', 'forward'))
    # Gradients that the clock leaves out are backwards within the backward; here they are the backward itself.
    whole = set(seconds) if whole_steps else {NOT_REENTRANT}
    return {kind: 1e6 * (value - forward - (plain if kind in whole else without_backward)) / len(steps)
            for kind, value in seconds.items()}
