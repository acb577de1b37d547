"""Overhead of a step of a reversible network: ours, a bare reversible function, checkpointing.

``python benchmarks/run.py overhead`` measures processor time of one thread, so that other jobs matter little. The bare
functions are those of a textbook: they save their output streams, and neither repeat random numbers nor check anything.
"""
import statistics
import time
from functools import partial
from multiprocessing import get_context
from typing import Any, Callable, Dict, List, Sequence, Tuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmrev.models.backbones import RevBiFPN, RevViT
from mmrev.reversible import AdditiveStep, ReversibleSequence, TwoStreamCoupling
from mmrev.reversible.plain import run_plain


class Bare(torch.autograd.Function):
    """``a += f(b); b += g(a)`` without any safety."""

    @staticmethod
    def forward(ctx: Any, f: nn.Module, g: nn.Module, a: Tensor, b: Tensor, *weights: Tensor) -> Tuple[Tensor, Tensor]:
        ctx.f, ctx.g = f, g
        a = a + f(b)
        b = b + g(a)
        ctx.save_for_backward(a.detach(), b.detach())
        return a, b

    @staticmethod
    def backward(ctx: Any, da: Tensor, db: Tensor) -> Tuple:
        a, b = ctx.saved_tensors
        out, more, of_g = _differentiate(ctx.g, a, db)
        da, b = da + more, b - out
        _, more, of_f = _differentiate(ctx.f, b, da)
        return None, None, da, db + more, *of_f, *of_g


class BareSteps(torch.autograd.Function):
    """A list of steps, such as a stage of RevBiFPN, without any safety."""

    @staticmethod
    def forward(ctx: Any, steps: Sequence[AdditiveStep], num_streams: int, *tensors: Tensor) -> Tuple[Tensor, ...]:
        ctx.steps, ctx.num_streams = steps, num_streams
        streams = [x.clone() for x in tensors[:num_streams]]
        for step in steps:
            out = step.f(*[part.of(streams[part.stream]) for part in step.sources])
            if step.creates:
                streams.append(out)
            else:
                step.target.of(streams[step.target.stream]).add_(out)
        ctx.save_for_backward(*streams)
        return tuple(streams)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tuple:
        streams, grads = [x.clone() for x in ctx.saved_tensors], [g.clone() for g in gradients]
        of_weights = []
        for step in reversed(ctx.steps):
            (source, ), t = step.sources, step.target.stream
            dx = grads.pop() if step.creates else step.target.of(grads[t])
            out, of_source, weights = _differentiate(step.f, source.of(streams[source.stream]), dx)
            of_weights[:0] = weights
            if step.creates:
                streams.pop()
            else:
                step.target.of(streams[t]).sub_(out)
            source.of(grads[source.stream]).add_(of_source)
        return None, None, *grads, *of_weights


def _differentiate(f: nn.Module, x: Tensor, gradient: Tensor) -> Tuple[Tensor, Tensor, Sequence[Tensor]]:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        out = f(x)
    of_x, *of_weights = torch.autograd.grad(out, [x, *f.parameters()], gradient)
    return out.detach(), of_x, of_weights


def _two_streams(f: nn.Module, g: nn.Module, a: Tensor, b: Tensor) -> Tuple[Tensor, Tensor]:
    a = a + f(b)
    return a, b + g(a)


Block = Callable[..., Tuple[Tensor, ...]]


def revvit(depth: int = 24) -> Tuple[List[nn.Module], List[Block], List[Block], List[Tensor]]:
    """The blocks of a small RevViT of 65 tokens, 64 wide: couplings, their plain form, the bare one, and the input."""
    arch = dict(embed_dims=64, num_layers=depth, num_heads=2, feedforward_channels=128)
    model = RevViT(arch, img_size=32, patch_size=4)
    pairs = [(m.f, m.g) for m in model.modules() if isinstance(m, TwoStreamCoupling)]
    bare = [partial(_bare_two_streams, f, g, [*f.parameters(), *g.parameters()]) for f, g in pairs]
    streams = [torch.randn(1, 65, 64) for _ in range(2)]
    return [TwoStreamCoupling(*pair) for pair in pairs], [partial(_two_streams, *pair) for pair in pairs], bare, streams


def _bare_two_streams(f: nn.Module, g: nn.Module, weights: List[Tensor], a: Tensor, b: Tensor) -> Tuple[Tensor, Tensor]:
    return Bare.apply(f, g, a, b, *weights)


def revbifpn() -> Tuple[List[nn.Module], List[Block], List[Block], List[Tensor]]:
    """The stages of RevBiFPN-S0 on two images of 64 x 64: as :func:`revvit`."""
    model = RevBiFPN('s0').train()
    couplings = list(model.stages.couplings)
    steps = [coupling.steps() for coupling in couplings]
    bare = [partial(_bare_steps, s, [p for step in s for p in step.f.parameters()]) for s in steps]
    return couplings, [partial(_plain_steps, s) for s in steps], bare, [model._stem(torch.randn(2, 3, 64, 64))]


NETWORKS = {'RevViT': revvit, 'RevBiFPN-S0': revbifpn}


def _plain_steps(steps: Sequence[AdditiveStep], *streams: Tensor) -> Tuple[Tensor, ...]:
    return run_plain(steps, streams)


def _bare_steps(steps: Sequence[AdditiveStep], weights: List[Tensor], *streams: Tensor) -> Tuple[Tensor, ...]:
    return BareSteps.apply(steps, len(streams), *streams, *weights)


def _chain(blocks: Sequence[Block], *streams: Tensor) -> Tuple[Tensor, ...]:
    for block in blocks:
        streams = block(*streams)
    return streams


def _runs(couplings: Sequence[nn.Module], plain: Sequence[Block], bare: Sequence[Block],
          streams: Sequence[Tensor]) -> Dict[str, Callable[[], None]]:
    weights = [p for coupling in couplings for p in coupling.parameters()]

    def step(network: Callable) -> None:
        sum(x.sum() for x in network(*[x.detach().requires_grad_() for x in streams])).backward()
        for p in weights:
            p.grad = None

    def forward() -> None:
        with torch.no_grad():
            _chain(plain, *streams)

    networks: Dict[str, Callable] = {'plain': partial(_chain, plain), 'bare': partial(_chain, bare),
                                     'reversible': ReversibleSequence(couplings)}
    for name, reentrant in (('checkpoint, reentrant', True), ('checkpoint, not reentrant', False)):
        networks[name] = partial(_chain, [partial(checkpoint, block, use_reentrant=reentrant) for block in plain])
    return {**{name: partial(step, network) for name, network in networks.items()}, 'forward': forward}


def report(rounds: int, processes: int) -> Dict[str, Dict[str, float]]:
    """Overhead per step in microseconds: a training step, minus a plain one, minus a forward without a graph.

    The median of new processes, by the ratio to the bare one: where memory lies shifts that by 0.2 between processes.
    """
    figures = {}
    for name in NETWORKS:
        with get_context('spawn').Pool(1, maxtasksperchild=1) as pool:
            measured = pool.starmap(_measure, [(name, rounds)] * processes, chunksize=1)
        print(f'Beside its function a step costs: {name}, one thread, median of {rounds} rounds in each of {processes} '
              f'processes')
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
    taken: Dict[str, List[float]] = {kind: [] for kind in runs}
    for _ in range(rounds + 2):
        for kind, run in runs.items():
            start = time.process_time()
            run()
            taken[kind].append(time.process_time() - start)
    seconds = {kind: statistics.median(values[2:]) for kind, values in taken.items()}
    steps = sum(len(coupling.steps()) for coupling in couplings)
    floor = seconds['plain'] + seconds['forward']
    return {kind: 1e6 * (seconds[kind] - floor) / steps for kind in runs if kind not in ('plain', 'forward')}
