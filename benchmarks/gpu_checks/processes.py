"""Two processes with a GPU each, and a second GPU while the first is current."""
import tempfile
from typing import Dict, List

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mmrev.layers import InPlaceABN, InPlaceABNSync
from mmrev.testing import assert_same_gradients

from . import On, check, needs_gpus
from .gradients import HEIGHT, REVERSIBLE, WIDTH, gradients, image, network

SIZES = ((3, 5), (0, 4))  # samples of the two processes


def _device(on: On, rank: int) -> torch.device:
    return torch.device('cuda', rank) if on.is_cuda else on.device


def _join(rank: int, on: On, folder: str) -> torch.device:
    device = _device(on, rank)
    if on.is_cuda:
        torch.cuda.set_device(device)
        torch.backends.cudnn.allow_tf32 = False  # a process begins with PyTorch's defaults
    dist.init_process_group('nccl' if on.is_cuda else 'gloo', init_method=f'file://{folder}/store', rank=rank,
                            world_size=2)
    return device


def _in_two_processes(worker, on: On) -> List[Dict[str, Tensor]]:
    if on.is_cuda:
        needs_gpus(on, 2)
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(worker, (on, folder), nprocs=2)
        return [torch.load(f'{folder}/{rank}.pt') for rank in range(2)]


def _layer_gradients(layer: nn.Module, x: Tensor) -> Dict[str, Tensor]:
    x = x.clone().requires_grad_()
    z = layer(x)
    (z * torch.linspace(-1, 1, 4, dtype=z.dtype, device=z.device).view(-1, 1, 1)).square().sum().backward()
    return {'dx': x.grad.cpu(), **{name: p.grad.cpu() for name, p in layer.named_parameters()},
            **{name: b.cpu() for name, b in layer.named_buffers()}}


def _batch(sizes) -> List[Tensor]:
    return torch.randn(sum(sizes), 4, 5, 5, generator=torch.Generator().manual_seed(0)).double().split(sizes)


def _sync_worker(rank: int, on: On, folder: str) -> None:
    device = _join(rank, on, folder)
    found = {}
    for sizes in SIZES:
        layer = InPlaceABNSync(4).double().to(device)
        found.update({f'{sizes} {name}': x for name, x in
                      _layer_gradients(layer, _batch(sizes)[rank].to(device)).items()})
    torch.save(found, f'{folder}/{rank}.pt')
    dist.destroy_process_group()


@check('two processes, InPlaceABNSync with uneven and empty batches')
def synchronised(on: On) -> str:
    found, worst = _in_two_processes(_sync_worker, on), 0.
    for sizes in SIZES:
        whole = _layer_gradients(InPlaceABN(4).double(), torch.cat(_batch(sizes)))
        for name, expected in whole.items():
            parts = [part[f'{sizes} {name}'] for part in found]
            ours = torch.cat(parts) if name == 'dx' else parts[0] if 'running' in name else parts[0] + parts[1]
            if expected.is_floating_point():
                worst = max(worst, float((ours - expected).abs().max() / expected.abs().max().clamp(min=1e-9)))
    assert worst < 1e-6, f'{worst:.1e} away from one process'
    return f'{worst:.1e} away from one process'


def _ddp_worker(rank: int, on: On, folder: str) -> None:
    device = _join(rank, on, folder)
    model = network('RevViT').to(device)
    ddp = DistributedDataParallel(model, device_ids=[device] if on.is_cuda else None, static_graph=False)
    found = gradients(ddp, image(2, HEIGHT, WIDTH)[rank:rank + 1].to(device))
    torch.save({name.removeprefix('module.'): x for name, x in found.items()}, f'{folder}/{rank}.pt')
    dist.destroy_process_group()


@check('two processes, DistributedDataParallel')
def distributed(on: On) -> str:
    first, second = _in_two_processes(_ddp_worker, on)
    assert all(torch.equal(x, second[name]) for name, x in first.items()), 'the two processes differ'
    alone = [gradients(network('RevViT'), image(2, HEIGHT, WIDTH)[i:i + 1]) for i in range(2)]
    apart = max(float((x - (alone[0][name] + alone[1][name]) / 2).abs().max()) for name, x in first.items())
    largest = max(float(x.abs().max()) for x in first.values())
    assert apart < 1e-4 * largest, f'{apart / largest:.1e} away from the mean of both'
    return f'{apart / largest:.1e} away from the mean of both'


@check('the second GPU while the first is current')
def second_gpu(on: On) -> str:
    needs_gpus(on, 2)
    torch.cuda.set_device(0)
    for name in REVERSIBLE:
        assert_same_gradients(network(name).to('cuda:1'), image(2, HEIGHT, WIDTH).to('cuda:1'), rtol=1e-2)
    return f'{", ".join(REVERSIBLE)}: as under plain autograd'
