"""Two real gloo processes equal one process with the joined batch."""
from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import mmrev
from mmrev import compat
from mmrev.reversible import ReversibleSequence, StreamPart, TwoStreamCoupling, plan
from mmrev.testing import set_reversible

pytestmark = pytest.mark.subprocess

WORLD = 2
CASES = [  # norm, find_unused_parameters, batches accumulated under no_sync
    ('group', False, 1),
    ('group', True, 1),
    ('group', False, 3),
    ('batch', True, 2),
    ('all_reduce', False, 1),
    ('all_reduce', True, 2),
]
SAVING = [  # level of save_memory, options of DDP
    ('cheap', dict(find_unused_parameters=True)),
    ('blocks', dict(find_unused_parameters=True, gradient_as_bucket_view=True)),
    ('cheap', dict(static_graph=True)),
] if compat.can_save_memory else []


class AllReduceNorm(nn.Module):
    """Normalizes by the mean over all processes: a collective inside a step."""

    class Mean(torch.autograd.Function):

        @staticmethod
        def forward(ctx, x):
            x = x.clone()
            if dist.is_initialized():
                dist.all_reduce(x)
                x /= dist.get_world_size()
            return x

        @staticmethod
        def backward(ctx, gradient):
            return AllReduceNorm.Mean.apply(gradient)

    def forward(self, x):
        return x - self.Mean.apply(x.mean(0, keepdim=True))


def function(norm):
    layer = {'group': lambda: nn.GroupNorm(2, 4), 'batch': lambda: nn.BatchNorm2d(4), 'all_reduce': AllReduceNorm}
    return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), layer[norm](), nn.Tanh())


def network(norm, reversible=True):
    torch.manual_seed(0)
    parts = (StreamPart(0, 4, 8), StreamPart(0, 0, 4))
    module = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        Unwrapped(ReversibleSequence([TwoStreamCoupling(function(norm), function(norm), parts) for _ in range(3)],
                                     reversible)),
        Head())
    if norm == 'batch':
        module.eval()
    return module.double()


class Unwrapped(nn.Module):

    def __init__(self, sequence):
        super().__init__()
        self.sequence = sequence

    def forward(self, x):
        return self.sequence(x)[0]


class Head(nn.Module):
    """Leaves one of its weights unused."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 2)
        self.unused = nn.Linear(8, 2)

    def forward(self, x):
        return self.linear(x.mean((2, 3)))


def data(step):
    return torch.randn(4, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(step))


def train(module, batches, optimizer, syncs):
    for batch, sync in zip(batches, syncs):
        with nullcontext() if sync else module.no_sync():
            module(batch).pow(2).mean().backward()
    optimizer.step()


def run_case(rank, norm, find_unused, accumulate):
    plan.NODE_BYTES = 0 if find_unused else 2**20  # a node for each coupling, or one for all
    module = network(norm)
    if not find_unused:
        module[2].unused.requires_grad_(False)
    ddp = DistributedDataParallel(module, find_unused_parameters=find_unused, broadcast_buffers=norm != 'batch')
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    for step in range(2):
        optimizer.zero_grad()
        batches = [data(10 * step + i)[2 * rank:2 * rank + 2] for i in range(accumulate)]
        train(ddp, batches, optimizer, [i == accumulate - 1 for i in range(accumulate)])
    return {k: v.detach().clone().numpy() for k, v in module.state_dict().items()}


def run_saving(rank, level, options):
    """Difference of the weights after two steps with ``save_memory`` from those without."""
    states = []
    for saves in (False, True):
        torch.manual_seed(0)
        blocks = [nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), act, nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
                  for act in (nn.SiLU(True), nn.ReLU(True))]
        module = nn.Sequential(nn.Conv2d(3, 8, 3, padding=2), *blocks, nn.Dropout(0.2), Head()).double()
        report = mmrev.save_memory(module, level) if saves else None
        ddp = DistributedDataParallel(module, **options)
        optimizer = torch.optim.SGD(module.parameters(), 0.1)
        for step in range(2):
            optimizer.zero_grad()
            batches = [data(10 * step + i)[2 * rank:2 * rank + 2] for i in range(2)]
            train(ddp, batches, optimizer, ['static_graph' in options, True])
        states.append(module.state_dict())
    assert report.kept < report.plain
    return {name: (states[0][name] - states[1][name]).numpy() for name in states[0]}


def worker(rank, store, queue):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', f'file://{store}', rank=rank, world_size=WORLD)
    queue.put((rank, [run_case(rank, *case) for case in CASES] + [run_saving(rank, *case) for case in SAVING]))
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope='module')
def states(tmp_path_factory):
    """``{case: [state dict of each rank]}``; one pair of processes runs all cases, for starting them takes longest."""
    store = tmp_path_factory.mktemp('gloo') / 'store'  # a free port may be taken by another test until it is used
    queue = mp.get_context('spawn').SimpleQueue()
    processes = mp.start_processes(worker, (str(store), queue), WORLD, join=False, start_method='spawn')
    results = {}
    while len(results) < WORLD:
        while queue.empty():
            processes.join(0.2)  # raises if one has failed
        results.update([queue.get()])
    processes.join()
    return {str(case): [results[rank][i] for rank in range(WORLD)] for i, case in enumerate([*CASES, *SAVING])}


def run_alone(norm, accumulate):
    module = network(norm, reversible=False)
    module[2].unused.requires_grad_(False)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    for step in range(2):
        optimizer.zero_grad()
        for i in range(accumulate):
            module(data(10 * step + i)).pow(2).mean().backward()
        optimizer.step()
    return module.state_dict()


@pytest.mark.parametrize('case', CASES, ids=str)
def test_ddp_equals_one_process_with_the_joined_batch(case, states):
    norm, _, accumulate = case
    alone = run_alone(norm, accumulate)
    for state in states[str(case)]:
        for key, expected in alone.items():
            torch.testing.assert_close(torch.from_numpy(state[key]), expected, rtol=1e-9, atol=1e-12, msg=key)


@pytest.mark.parametrize('case', SAVING, ids=str)
def test_ddp_trains_the_same_weights_with_save_memory(case, states):
    for differences in states[str(case)]:
        assert differences and not any(difference.any() for difference in differences.values())


def test_the_joined_batch_matters():
    """The comparison above can fail: half of the batch gives other weights."""
    alone, module = run_alone('group', 1), set_reversible(network('group'), False)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    for step in range(2):
        optimizer.zero_grad()
        module(data(10 * step)[:2]).pow(2).mean().backward()
        optimizer.step()
    assert not torch.allclose(module.state_dict()['0.weight'], alone['0.weight'], rtol=1e-4)
