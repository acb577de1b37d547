"""Overlapped steps: the same gradients, no hazard between streams, no growth of memory."""
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from mmrev.reversible import ReversibleSequence, TwoStreamCoupling

from . import On, check, needs_gpus

SANITIZED = """
import sys
sys.path[:0] = {paths!r}
import torch
import torch.cuda._sanitizer
torch.cuda._sanitizer.enable_cuda_sanitizer()
from gpu_checks.overlap import network, step
device = torch.device({device!r})
torch.cuda.set_device(device)
module = network(device)
module.overlap = True
for i in range({iterations}):
    step(module, i)
torch.cuda.synchronize()
"""


def network(device: torch.device, depth: int = 8, width: int = 32) -> ReversibleSequence:
    """Two streams of convolutions with random numbers and buffers."""
    torch.manual_seed(0)

    def f() -> nn.Module:
        return nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.Dropout(0.1), nn.SiLU())

    return ReversibleSequence([TwoStreamCoupling(f(), f()) for _ in range(depth)]).to(device)


def step(module: ReversibleSequence, seed: int, side: int = 32) -> torch.Tensor:
    """All gradients of a step as one vector."""
    weight = next(module.parameters())
    torch.manual_seed(seed)
    streams = [torch.randn(4, weight.shape[0], side, side, device=weight.device) for _ in range(2)]
    module.zero_grad()
    sum(y.square().mean() for y in module(*streams)).backward()
    return torch.cat([p.grad.flatten() for p in module.parameters()])


@check('overlap on and off, the same gradients')
def same_gradients(on: On) -> str:
    modules = [network(on.device), network(on.device)]
    modules[1].overlap = True
    torch.backends.cudnn.deterministic = True
    worst = 0.
    for i in range(on.times(200)):
        plain, ahead = (step(module, i) for module in modules)
        worst = max(worst, float((plain - ahead).abs().max() / plain.abs().max()))
    torch.backends.cudnn.deterministic = False
    assert worst < 1e-5, f'{worst:.1e} apart'
    return f'{worst:.1e} apart over {on.times(200)} iterations'


@check('overlap under the CUDA sanitizer')
def sanitized(on: On) -> str:
    needs_gpus(on)
    iterations = on.times(200)
    code = SANITIZED.format(paths=sys.path[:3] + [str(Path(__file__).parents[1])], device=str(on.device),
                            iterations=iterations)
    ended = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, (ended.stderr.strip().splitlines() or ['no message'])[-1]
    return f'no unordered access in {iterations} iterations'


def register_memory(overlap: bool) -> None:

    @check(f'reserved memory over 40 iterations, overlap {"on" if overlap else "off"}')
    def reserved(on: On) -> str:
        needs_gpus(on)
        module = network(on.device)
        module.overlap = overlap
        torch.cuda.empty_cache()
        found = []
        for i in range(40):
            step(module, i, side=128)
            found.append(torch.cuda.memory_reserved(on.device) / 2**20)
        assert found[-1] <= found[4], f'{found[4]:.0f} MiB after 5 iterations, {found[-1]:.0f} after 40'
        peak = torch.cuda.max_memory_allocated(on.device) / 2**20
        return f'{found[4]:.0f} MiB after 5 iterations, {found[-1]:.0f} after 40; {peak:.0f} allocated at most'


register_memory(False)
register_memory(True)
