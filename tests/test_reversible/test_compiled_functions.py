"""Functions that are compiled one by one within a sequence that runs eagerly."""
import copy

import pytest
import torch
from torch import nn

from mmrev import compat
from mmrev.layers import norm_act
from mmrev.layers.fused import batch_norm
from mmrev.reversible import ReversibilityError, ReversibleSequence, TwoStreamCoupling

if not hasattr(torch.compiler, 'set_stance'):
    pytest.skip(f'PyTorch {torch.__version__} lacks torch.compiler.set_stance', allow_module_level=True)


class Residual(nn.Module):

    def __init__(self, rate):
        super().__init__()
        self.norm, self.linear, self.dropout = nn.LayerNorm(4), nn.Linear(4, 4), nn.Dropout(rate)

    def forward(self, x):
        return self.dropout(torch.tanh(self.linear(self.norm(x))))


class Normed(nn.Module):

    def __init__(self, rate):
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x):
        return norm_act(self.linear(x), self.norm, None)


@pytest.fixture
def compiled():
    """Builds a sequence of compiled functions; says how many graphs they became."""
    torch._dynamo.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    def build(rate=0., make=Residual, **options):
        torch.manual_seed(0)
        sequence = ReversibleSequence([TwoStreamCoupling(make(rate), make(rate)) for _ in range(3)], **options)
        sequence.double().compile(backend=backend)
        return sequence, graphs

    yield build
    torch._dynamo.reset()


def streams():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 4, dtype=torch.float64, generator=generator, requires_grad=True) for _ in range(2)]


def run(sequence):
    """Gradients of streams and weights."""
    torch.manual_seed(1)
    inputs = streams()
    total = sum(x.pow(2).sum() for x in sequence(*inputs))
    return torch.autograd.grad(total, [*inputs, *sequence.parameters()])


def plain(sequence):
    twin = copy.deepcopy(sequence)  # is not compiled
    twin.reversible = False
    return run(twin)


@pytest.mark.parametrize('options', [{}, dict(keep=['undo', 'graph', 'state'] * 2), dict(reversible=False)], ids=str)
def test_they_are_compiled_and_give_the_gradients_of_plain_autograd(options, compiled):
    sequence, graphs = compiled(**options)
    for _ in range(3):  # the first is examined, eagerly
        found = run(sequence)
    assert graphs
    torch.testing.assert_close(found, plain(sequence), rtol=1e-10, atol=1e-12)


def test_batch_norms_whose_statistics_are_noted(compiled, monkeypatch):
    monkeypatch.setattr(batch_norm, '_MANY_VALUES', 1)
    sequence, graphs = compiled(make=Normed)
    for _ in range(3):
        found = run(sequence)
    assert graphs
    torch.testing.assert_close(found, plain(sequence), rtol=1e-10, atol=1e-12)


def test_a_function_that_draws_random_numbers_runs_eagerly(compiled):
    sequence, graphs = compiled(0.5)
    for _ in range(3):
        torch.testing.assert_close(run(sequence), plain(sequence), rtol=1e-10, atol=1e-12)
    assert not graphs


def test_a_compiled_function_that_begins_to_draw_is_refused(compiled):
    sequence, graphs = compiled()
    for _ in range(3):
        run(sequence)
    assert graphs
    sequence.couplings[1].f.dropout.p = 0.5
    with pytest.raises(ReversibilityError, match=r'couplings\.1\.f.* is compiled and drew random numbers'):
        run(sequence)
    sequence.train()
    run(sequence)


def test_within_a_compiled_network(compiled):
    sequence, graphs = compiled()
    network = torch.compile(lambda a, b: sequence(a * 2, b), backend='eager')
    for _ in range(3):
        a, b = streams()
        sum(x.sum() for x in network(a, b)).backward()
    assert graphs


def test_another_thread_does_not_leave_the_compiler_off(compiled):
    """Two threads observe functions at overlapping times."""
    first, second = compat.eagerly(), compat.eagerly()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    sequence, graphs = compiled()
    run(sequence)
    run(sequence)
    assert graphs


class PartlyCompiled(nn.Module):
    """A norm is used in compiled code, and once more in code that is not compiled."""

    def __init__(self):
        super().__init__()
        self.norm, self.act = nn.BatchNorm1d(4), nn.SiLU()

    def forward(self, x):
        return self._eager(norm_act(x, self.norm, self.act))

    @torch.compiler.disable
    def _eager(self, x):
        return norm_act(x * x + 2, self.norm, self.act)


def test_a_norm_that_is_used_in_and_outside_of_compiled_code(monkeypatch):
    monkeypatch.setattr(batch_norm, '_MANY_VALUES', 1)
    torch.manual_seed(0)
    plain = ReversibleSequence([TwoStreamCoupling(PartlyCompiled(), PartlyCompiled())], reversible=False).double()
    compiled = copy.deepcopy(plain)
    compiled.reversible = True
    compiled.compile(backend='eager')
    streams = torch.randn(2, 8, 4, dtype=torch.float64)
    for model in (plain, compiled):  # two forwards: one evaluation of a step is compiled, the other is not
        sum((x**3).sum() for shift in range(2) for x in model(*(streams + shift))).backward()
    for a, b in zip(plain.parameters(), compiled.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-9)
