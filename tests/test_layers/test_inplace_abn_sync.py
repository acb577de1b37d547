"""Two and three real gloo processes equal one process with the joined batch."""
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.parallel import DistributedDataParallel

import mmrev.layers.inplace_abn.function as function
from mmrev.layers import ABN, InPlaceABN, InPlaceABNSync
from mmrev.layers.inplace_abn import inplace_abn_sync
from mmrev.reversible import ReversibleSequence, TwoStreamCoupling
from mmrev.surgery import convert_sync

WORLDS = (3, 2)
SIZES = {'uneven': (2, 3, 1), 'even': (2, 2, 2), 'empty': (2, 0, 3), 'ones': (1, 1, 1)}
CASES = [  # network, sizes of the batches, bytes of a block
    ('plain', 'uneven', 2**20),
    ('plain', 'uneven', 64),
    ('plain', 'empty', 64),
    ('vectors', 'ones', 2**20),
    ('no_affine', 'uneven', 2**20),
    ('cumulative', 'uneven', 2**20),
    ('reversible', 'uneven', 2**20),
    ('torch', 'uneven', 2**20),
    ('abn', 'uneven', 2**20),
]


def network(case, sync):
    kind = {'torch': InPlaceABN, 'abn': ABN}.get(case, InPlaceABNSync)
    kwargs = dict(no_affine=dict(affine=False), cumulative=dict(momentum=None)).get(case, {})
    torch.manual_seed(0)
    if case == 'vectors':
        module = nn.Sequential(nn.Linear(3, 4), kind(4), nn.Linear(4, 2))
    elif case == 'reversible':
        def f():
            return nn.Sequential(nn.Conv2d(4, 4, 1), kind(4), nn.Conv2d(4, 4, 1), kind(4, activation='elu'))
        module = nn.Sequential(Streams([TwoStreamCoupling(f(), f()) for _ in range(2)], sync))
    else:
        module = nn.Sequential(nn.Conv2d(3, 4, 3), kind(4, activation='elu', **kwargs), nn.Conv2d(4, 4, 1),
                               kind(4, activation='leaky_relu', **kwargs), nn.Conv2d(4, 2, 1))
    for m in module.modules():
        if isinstance(m, ABN) and m.affine:
            nn.init.normal_(m.weight), nn.init.normal_(m.bias)
    if sync and case == 'torch':
        module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
    elif sync:
        module = convert_sync(module)
    return module.double()


class Streams(ReversibleSequence):
    """Of eight channels, four for each stream."""

    def __init__(self, couplings, reversible):
        super().__init__(couplings, reversible)
        self.stem = nn.Conv2d(3, 8, 1)

    def forward(self, x):
        return torch.cat(super().forward(*self.stem(x).chunk(2, 1)), 1)


def data(case, sizes):
    """One batch per process."""
    shape = (3, ) if case == 'vectors' else (3, 5, 4)
    joined = torch.randn(sum(sizes), *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return joined.split(list(sizes))


def gradients(module, x):
    """Of two steps, so that the statistics move twice."""
    x = x.clone().requires_grad_()
    for factor in (1, 2):
        z = module(factor * x)
        (z.square() * torch.linspace(-1, 1, z.shape[1], dtype=z.dtype).view(-1, *[1] * (z.ndim - 2))).sum().backward()
    return dict(z=z.detach(), dx=x.grad, **{k: p.grad for k, p in module.named_parameters()},
                **dict(module.named_buffers()))


def run_case(rank, world, case, sizes, block_bytes):
    function.BLOCK_BYTES['cpu'] = block_bytes
    return gradients(network(case, sync=True), data(case, SIZES[sizes][:world])[rank])


def run_group(rank, pair, alone):
    layer = convert_sync(InPlaceABN(4).double(), pair if rank < 2 else alone)
    return gradients(layer, data('vectors', (3, 4, 5))[rank].repeat(1, 2)[:, :4])


def run_refusal(rank):
    try:
        inplace_abn_sync(torch.zeros(int(rank == 1), 4), None, None, None, None)
    except ValueError as error:
        return str(error)


def run_large_mean(rank):
    """Float32 values about 10,000 with a deviation of 1: a mean of squares would lose the variance."""
    layer = InPlaceABNSync(4, momentum=1.)
    layer(values(rank).float())
    return layer.running_var


def values(rank):
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(200 * (rank + 1), 4, dtype=torch.float64, generator=generator) + 10000 + 0.3 * rank


def run_half(rank):
    layer, x = InPlaceABNSync(4), values(rank)
    z = layer((x - 10000).bfloat16().requires_grad_())
    z.float().square().sum().backward()
    return dict(z=z.float(), mean=layer.running_mean, weight=layer.weight.grad)


def run_ddp(rank, world):
    torch.manual_seed(0)
    module = DistributedDataParallel(network('plain', sync=True))
    module(data('plain', (2, ) * world)[rank]).square().sum().mul(world).backward()  # it averages over processes
    return {k: p.grad for k, p in module.module.named_parameters()}


def worker(rank, ports, queue):
    torch.set_num_threads(1)
    for world, port in zip(WORLDS, ports):
        if rank >= world:
            break
        dist.init_process_group('gloo', f'tcp://127.0.0.1:{port}', rank=rank, world_size=world)
        found = {case: run_case(rank, world, *case) for case in CASES}
        found.update(refusal=run_refusal(rank), large_mean=run_large_mean(rank), half=run_half(rank),
                     ddp=run_ddp(rank, world))
        if world == 3:
            found['group'] = run_group(rank, dist.new_group([0, 1]), dist.new_group([2]))
        queue.put((world, rank, as_numpy(found)))
        dist.barrier()
        dist.destroy_process_group()


def as_numpy(found):
    if isinstance(found, dict):
        return {k: as_numpy(v) for k, v in found.items()}
    return found.detach().numpy() if isinstance(found, torch.Tensor) else found


@pytest.fixture(scope='module')
def found():
    """``{world: {rank: {case: what it computed}}}``; one set of processes for all, for starting them takes longest."""
    sockets = [socket.socket() for _ in WORLDS]
    for s in sockets:
        s.bind(('127.0.0.1', 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    queue = mp.get_context('spawn').SimpleQueue()
    processes = mp.start_processes(worker, (ports, queue), max(WORLDS), join=False, start_method='spawn')
    results = {world: {} for world in WORLDS}
    for _ in range(sum(WORLDS)):
        while queue.empty():
            processes.join(timeout=0.2)  # raises what a process raised
        world, rank, result = queue.get()
        results[world][rank] = result
    processes.join()
    return results


@pytest.mark.subprocess
@pytest.mark.parametrize('world', WORLDS)
@pytest.mark.parametrize('case', CASES, ids=str)
def test_processes_equal_one_with_the_joined_batch(case, world, found):
    name, sizes, _ = case
    batches = data(name, SIZES[sizes][:world])
    alone = gradients(network(name, sync=False), torch.cat(batches))
    ranks = [found[world][rank][case] for rank in range(world)]
    for key, expected in alone.items():
        parts = [torch.from_numpy(r[key]) for r in ranks]
        if key in ('z', 'dx'):
            parts = [torch.cat(parts)]
        elif 'running' not in key and 'num_batches' not in key:
            parts = [sum(parts)]
        for part in parts:
            torch.testing.assert_close(part, expected, rtol=1e-9, atol=1e-9, msg=lambda m: f'{key}: {m}')


def test_the_joined_batch_matters():
    """The comparison above can fail: the own batch gives other gradients."""
    alone = gradients(network('plain', sync=False), data('plain', (2, 3, 1))[0])
    joined = gradients(network('plain', sync=False), torch.cat(data('plain', (2, 3, 1))))
    assert not torch.allclose(alone['z'], joined['z'][:2], rtol=1e-3)


@pytest.mark.subprocess
@pytest.mark.parametrize('world', WORLDS)
def test_under_ddp_gradients_are_those_of_the_joined_batch(world, found):
    module = network('plain', sync=False)
    module(torch.cat(data('plain', (2, ) * world))).square().sum().backward()
    for rank in range(world):
        for key, p in module.named_parameters():
            torch.testing.assert_close(torch.from_numpy(found[world][rank]['ddp'][key]), p.grad, rtol=1e-9, atol=1e-11)


@pytest.mark.subprocess
def test_a_group_joins_its_own_processes_only(found):
    batches = [b.repeat(1, 2)[:, :4] for b in data('vectors', (3, 4, 5))]
    pair, alone = (gradients(InPlaceABN(4).double(), x) for x in (torch.cat(batches[:2]), batches[2]))
    ranks = [found[3][rank]['group'] for rank in range(3)]
    dx = torch.cat([torch.from_numpy(r['dx']) for r in ranks])
    torch.testing.assert_close(dx, torch.cat([pair['dx'], alone['dx']]))
    torch.testing.assert_close(torch.from_numpy(ranks[1]['running_var']), pair['running_var'])


@pytest.mark.subprocess
@pytest.mark.parametrize('world', WORLDS)
def test_one_value_in_all_processes_is_refused_in_all(world, found):
    for rank in range(world):
        assert 'inplace_abn_sync needs more than one value per channel' in found[world][rank]['refusal']


@pytest.mark.subprocess
@pytest.mark.parametrize('world', WORLDS)
def test_the_variance_of_values_far_from_zero_is_not_lost(world, found):
    expected = torch.cat([values(rank) for rank in range(world)]).var(0)
    for rank in range(world):
        torch.testing.assert_close(torch.from_numpy(found[world][rank]['large_mean']), expected, rtol=2e-3, atol=0,
                                   check_dtype=False)


@pytest.mark.subprocess
@pytest.mark.parametrize('world', WORLDS)
def test_half_precision_synchronises_in_float32(world, found):
    layer, x = InPlaceABN(4), torch.cat([values(rank) - 10000 for rank in range(world)]).bfloat16()
    z = layer(x.requires_grad_())
    z.float().square().sum().backward()
    ranks = [{k: torch.from_numpy(v) for k, v in found[world][rank]['half'].items()} for rank in range(world)]
    torch.testing.assert_close(torch.cat([r['z'] for r in ranks]), z.float(), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(ranks[0]['mean'], layer.running_mean)
    torch.testing.assert_close(sum(r['weight'] for r in ranks), layer.weight.grad, rtol=1e-3, atol=1e-2)


def test_on_a_gpu_the_statistics_of_all_processes_arrive_in_one_tensor(monkeypatch):
    """With fake CUDA tensors. NCCL gathers into a list by a copy for each process."""
    gathered = []
    monkeypatch.setattr(torch.ops.aten, 'batch_norm_update_stats', lambda x, mean, var, momentum: (mean, var))
    monkeypatch.setattr(dist, 'is_initialized', lambda: True)
    monkeypatch.setattr(dist, 'get_world_size', lambda group=None: 3)
    monkeypatch.setattr(dist, 'all_gather', None)  # must not be reached
    monkeypatch.setattr(dist, 'all_gather_into_tensor', lambda out, x, group: gathered.append((out.shape, x.shape)))
    with FakeTensorMode(), torch.device('cuda'):
        assert InPlaceABNSync(4)(torch.randn(2, 4, 3, 3)).is_cuda
    assert gathered == [((3, 9), (9, ))]


def test_a_copy_shares_the_group_and_a_pickle_leaves_it_out():
    import copy
    import pickle

    class Group:

        def __reduce__(self):
            raise TypeError('a process group cannot be pickled')

    layer = InPlaceABNSync(4, group=Group())
    assert copy.deepcopy(nn.Sequential(layer))[0].group is layer.group
    assert pickle.loads(pickle.dumps(layer)).group is None
