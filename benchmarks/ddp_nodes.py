"""One autograd node for the whole network, or one per stage: which suits DistributedDataParallel?

    python benchmarks/ddp_nodes.py

Two gloo processes of one thread each train RevBiFPN-S1. With a node per stage the gradients of late stages are reduced
while early ones are still undone, and are released earlier.
"""
import os
import statistics
import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmrev.models.backbones import RevBiFPN
from mmrev.testing import PeakMemory

ROUNDS = 12


class OneNode(nn.Module):
    """All stages as one coupling, for which the engine makes one node."""

    def __init__(self, stages: nn.ModuleList):
        super().__init__()
        self.stages = stages

    def steps(self):
        return [step for stage in self.stages for step in stage.steps()]


def build(one_node: bool) -> RevBiFPN:
    torch.manual_seed(0)
    model = RevBiFPN('s1')
    if one_node:
        model.stages.couplings = nn.ModuleList([OneNode(model.stages.couplings)])
    return model


def step(model, images) -> float:
    start = time.perf_counter()
    sum(x.sum() for x in model(images)).backward()
    return time.perf_counter() - start


def worker(rank: int, port: str) -> None:
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
    torch.set_num_threads(1)
    dist.init_process_group('gloo', rank=rank, world_size=2)
    images = torch.randn(4, 3, 96, 96)
    models = {name: DistributedDataParallel(build(name == 'one node'), gradient_as_bucket_view=True)
              for name in ('one node', 'node per stage')}
    taken = {name: [] for name in models}
    for _ in range(ROUNDS):
        for name, model in models.items():
            dist.barrier()
            taken[name].append(step(model, images))
    for name, model in models.items():
        with PeakMemory() as memory:
            step(model, images)
        if rank == 0:
            print(f'  {name:16s} {1e3 * statistics.median(taken[name][2:]):7.1f} ms   peak {memory.peak / 2**20:6.1f} '
                  'MiB', flush=True)
    dist.destroy_process_group()


if __name__ == '__main__':
    print('RevBiFPN-S1, 4 images of 96x96 per process, two gloo processes, median step:')
    mp.start_processes(worker, ('29511', ), 2, start_method='spawn')
