"""What a step of a reversible network costs beside its function: ours, a bare reversible function, checkpointing.

``python benchmarks/run.py overhead`` takes processor time of one thread, so that it holds beside other jobs. The bare
function is that of a textbook: it saves two streams, draws no random numbers, notices nothing and checks nothing.
"""
import statistics
import time
from functools import partial
from typing import Any, Callable, Dict, List, Sequence, Tuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmrev.models.backbones import RevViT
from mmrev.reversible import ReversibleSequence, TwoStreamCoupling


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


def _differentiate(f: nn.Module, x: Tensor, gradient: Tensor) -> Tuple[Tensor, Tensor, Sequence[Tensor]]:
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        out = f(x)
    of_x, *of_weights = torch.autograd.grad(out, [x, *f.parameters()], gradient)
    return out.detach(), of_x, of_weights


def _block(f: nn.Module, g: nn.Module, a: Tensor, b: Tensor) -> Tuple[Tensor, Tensor]:
    a = a + f(b)
    return a, b + g(a)


def _runs(couplings: Sequence[TwoStreamCoupling], streams: Sequence[Tensor]) -> Dict[str, Callable[[], None]]:
    pairs = [(c.f, c.g) for c in couplings]
    weights = [[*f.parameters(), *g.parameters()] for f, g in pairs]
    sequence = ReversibleSequence(couplings)

    def bare(a: Tensor, b: Tensor) -> Tuple[Tensor, Tensor]:
        for (f, g), w in zip(pairs, weights):
            a, b = Bare.apply(f, g, a, b, *w)
        return a, b

    def blocks(run: Callable, a: Tensor, b: Tensor) -> Tuple[Tensor, Tensor]:
        for f, g in pairs:
            a, b = run(partial(_block, f, g), a, b)
        return a, b

    def step(network: Callable) -> None:
        sum(x.sum() for x in network(*[x.detach().requires_grad_() for x in streams])).backward()
        for w in weights:
            for p in w:
                p.grad = None

    def forward() -> None:
        with torch.no_grad():
            blocks(lambda block, a, b: block(a, b), *streams)

    networks = {'plain': partial(blocks, lambda block, a, b: block(a, b)), 'bare': bare, 'reversible': sequence,
                'checkpoint, reentrant': partial(blocks, partial(checkpoint, use_reentrant=True)),
                'checkpoint, not reentrant': partial(blocks, partial(checkpoint, use_reentrant=False))}
    return {**{name: partial(step, network) for name, network in networks.items()}, 'forward': forward}


def revvit(depth: int = 24) -> Tuple[List[TwoStreamCoupling], List[Tensor]]:
    """The blocks of a small RevViT of 65 tokens, 64 wide, and their input."""
    arch = dict(embed_dims=64, num_layers=depth, num_heads=2, feedforward_channels=128)
    model = RevViT(arch, img_size=32, patch_size=4)
    couplings = [m for m in model.modules() if isinstance(m, TwoStreamCoupling)]
    return couplings, [torch.randn(1, 65, 64) for _ in range(2)]


def report(rounds: int) -> Dict[str, float]:
    """Microseconds a step beside its function: a training step less plain's and less a forward without a graph."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    couplings, streams = revvit()
    runs = _runs(couplings, streams)
    taken: Dict[str, List[float]] = {name: [] for name in runs}
    for _ in range(rounds + 2):
        for name, run in runs.items():
            start = time.process_time()
            run()
            taken[name].append(time.process_time() - start)
    torch.set_num_threads(threads)
    seconds = {name: statistics.median(values[2:]) for name, values in taken.items()}
    steps, floor = 2 * len(couplings), seconds['plain'] + seconds['forward']
    figures = {name: 1e6 * (seconds[name] - floor) / steps for name in runs if name not in ('plain', 'forward')}
    print(f'Beside its function a step costs: RevViT of {len(couplings)} layers, {steps} steps, one thread, median of '
          f'{rounds}')
    for name, value in figures.items():
        print(f'  {name:26s} {value:8.0f} us   whole step {1e3 * seconds[name]:7.1f} ms, '
              f'{seconds[name] / seconds["bare"]:5.2f} of the bare one')
    return figures
