"""FSDP2 (``fully_shard``) on a whole network and on its couplings: two processes with gloo against one, in float64."""
import copy
from functools import partial

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmrev.reversible import NewStream, ReversibilityError, ReversibleSequence, TwoStreamCoupling

pytestmark = pytest.mark.subprocess
fsdp = pytest.importorskip('torch.distributed.fsdp')
if not hasattr(fsdp, 'fully_shard'):
    pytest.skip(f'PyTorch {torch.__version__} lacks fully_shard', allow_module_level=True)

WORLD, DEPTH, WIDTH = 2, 4, 6
CASES = [  # where fully_shard is applied, what each step keeps, whether anything is undone
    ('network', 'undo', True),
    ('couplings', 'undo', True),
    ('couplings alone', 'undo', True),
    ('couplings', ['undo', 'graph', 'state'] * 3, True),
    ('couplings', 'undo', False),
]


class Residual(nn.Module):

    def __init__(self):
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return torch.tanh(self.linear(self.norm(x)))


class Network(nn.Module):

    def __init__(self, keep='undo', reversible=True):
        super().__init__()
        self.stem = nn.Linear(WIDTH, 2 * WIDTH)
        couplings = [TwoStreamCoupling(Residual(), Residual()) for _ in range(DEPTH)]
        self.blocks = ReversibleSequence([*couplings, NewStream(Residual(), 2, (0, ))], reversible, keep=keep)
        self.head = nn.Linear(3 * WIDTH, 1)

    def forward(self, x):
        return self.head(torch.cat(self.blocks(*self.stem(x).chunk(2, 1)), 1))


def network(keep='undo', reversible=True):
    torch.manual_seed(0)
    return Network(keep, reversible).double()


def shard(model, where):
    if where != 'network':
        for coupling in model.blocks.couplings:
            fsdp.fully_shard(coupling, reshard_after_forward=True)
    if where != 'couplings alone':
        fsdp.fully_shard(model)


def data(step):
    return torch.randn(4, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(step))


def train(model, rank=None, steps=3):
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for step in range(steps):
        x = data(step) if rank is None else data(step)[2 * rank:2 * rank + 2]
        model(x).pow(2).mean().backward()
        gradients = {name: full(p.grad) for name, p in model.named_parameters()}
        optimizer.step()
        optimizer.zero_grad()
    weights = {name: full(p) for name, p in model.named_parameters()}
    model.eval()
    with torch.no_grad():
        return gradients, weights, model(data(9))


def full(x):
    return (x.full_tensor() if hasattr(x, 'full_tensor') else x).detach().clone()


def gathered(model):
    """How many couplings hold their whole weights now, as a list that grows with each evaluation of a function."""
    counts = []

    def count(*_):
        counts.append(sum(not hasattr(next(c.parameters()), 'full_tensor') for c in model.blocks.couplings))

    for m in model.modules():
        if isinstance(m, Residual):
            m.linear.register_forward_hook(count)
    return counts


def worker(rank, store, queue):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', f'file://{store}', rank=rank, world_size=WORLD)
    results = []
    for where, keep, reversible in CASES:
        model = network(keep if isinstance(keep, str) else keep[:2 * DEPTH + 1], reversible)
        shard(model, where)
        counts = gathered(model)
        if where == 'couplings alone':  # nobody reduces the gradients of the rest
            for p in (*model.stem.parameters(), *model.head.parameters()):
                p.register_post_accumulate_grad_hook(average)
        results.append([*({k: v.numpy() for k, v in state.items()} for state in train(model, rank)[:2]), max(counts)])
    queue.put((rank, results))
    dist.barrier()
    dist.destroy_process_group()


def average(p):
    dist.all_reduce(p.grad)
    p.grad /= WORLD


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    """``{case: (gradients, weights, couplings that were gathered at once)}`` of the first process."""
    queue = mp.get_context('spawn').SimpleQueue()
    store = tmp_path_factory.mktemp('gloo') / 'store'
    processes = mp.start_processes(worker, (str(store), queue), WORLD, join=False, start_method='spawn')
    found = {}
    while len(found) < WORLD:
        while queue.empty():
            processes.join(0.2)  # raises if one has failed
        found.update([queue.get()])
    processes.join()
    return found


@pytest.mark.parametrize('case', range(len(CASES)), ids=lambda i: ' '.join(map(str, CASES[i][::2])) + f' {i}')
def test_gradients_and_weights_equal_those_of_one_process(case, results):
    gradients, weights, _ = train(network(reversible=False))
    for rank in range(WORLD):
        for expected, found in zip((gradients, weights), results[rank][case]):
            for name, x in expected.items():
                torch.testing.assert_close(torch.from_numpy(found[name]), x, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize('case', [i for i, (where, _, _) in enumerate(CASES) if where != 'network'])
def test_one_coupling_at_a_time_holds_its_whole_weights(case, results):
    assert results[0][case][2] <= 2  # the one that runs and the one that is gathered ahead


@pytest.fixture
def alone(tmp_path):
    dist.init_process_group('gloo', f'file://{tmp_path / "store"}', rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_function_within_a_coupling_is_refused_by_name(alone):
    model = network()
    fsdp.fully_shard(model.blocks.couplings[1].f)
    with pytest.raises(ReversibilityError, match=r'couplings\.1\.f.*to the coupling'):
        model(data(0))


def test_overlap_has_no_effect(alone):
    model = network()
    model.blocks.overlap = True
    shard(model, 'couplings')
    with pytest.warns(UserWarning, match='not gathered'):
        model(data(0)).sum().backward()


@pytest.mark.parametrize('sharded', ['couplings', 'sequence', 'network'])
@pytest.mark.parametrize('keep', ['undo', 'graph', ['graph', 'undo', 'state'] * 3])
def test_a_checkpoint_around_two_sequences_changes_no_gradient(keep, sharded, alone):
    """Within a backward, `fully_shard` drops the gradients of sequences that the checkpoint evaluates again."""
    model, plain = network(keep), network(reversible=False)
    for m in (model, plain):
        m.more, m.forward = copy.deepcopy(m.blocks.couplings[:DEPTH]), partial(twice, m)
        m.more = ReversibleSequence(m.more, m is model, keep=keep if isinstance(keep, str) else keep[:2 * DEPTH])
    sequences = [model.blocks, model.more]
    units = {'couplings': [c for m in sequences for c in m.couplings], 'sequence': sequences, 'network': []}[sharded]
    for unit in (*units, model):
        fsdp.fully_shard(unit)
    for m in (model, plain):
        m(data(0)).pow(2).sum().backward()
    for (name, p), expected in zip(model.named_parameters(), plain.parameters()):
        torch.testing.assert_close(full(p.grad), expected.grad, rtol=1e-9, atol=1e-12, msg=name)


def twice(model, x):
    a, b = model.stem(x).chunk(2, 1)
    return model.head(torch.cat(checkpoint(lambda *ab: model.blocks(*model.more(*ab)), a, b, use_reentrant=False), 1))
