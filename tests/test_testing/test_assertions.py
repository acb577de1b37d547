"""The assertions fail where they should."""
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mmrev.reversible import ReversibleSequence, TwoStreamCoupling
from mmrev.testing import assertions, assert_invertible, assert_same_gradients, set_reversible


def network(f):
    torch.manual_seed(0)
    return ReversibleSequence([TwoStreamCoupling(f, nn.Linear(4, 4))]).double()


def streams():
    return [torch.randn(2, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]


class Differs(nn.Linear):
    """Computes something else each time."""
    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * self.calls


def test_same_gradients_fails_for_a_function_that_changes():
    assert_same_gradients(network(nn.Linear(4, 4)), *streams())
    with pytest.raises(AssertionError, match="gradient '?.*differs"):
        assert_same_gradients(network(Differs(4, 4)), *streams())


def test_invertible_fails_for_a_function_that_changes():
    assert_invertible(network(nn.Linear(4, 4)), *streams())
    with pytest.raises(RuntimeError, match='couplings.0.f'):
        assert_invertible(network(Differs(4, 4)), *streams())


def test_invertible_fails_where_nothing_was_undone():
    with pytest.raises(AssertionError, match='undid no step'):
        assert_invertible(set_reversible(network(nn.Linear(4, 4)), False), *streams())


def test_set_reversible_refuses_a_module_without_any():
    with pytest.raises(ValueError, match='holds no ReversibleSequence'):
        set_reversible(nn.Linear(4, 4), True)


def test_same_gradients_compares_the_generator_of_every_device(monkeypatch):
    """Works without a GPU: each generator is asked for a random number."""
    with FakeTensorMode():
        module, x = nn.Linear(2, 2, device='cuda:0'), torch.zeros(1, 2, device='cuda:1')
        assert [str(device) for device in assertions._devices(module, [x])] == ['cpu', 'cuda:0', 'cuda:1']
    monkeypatch.setattr(assertions, '_devices', lambda module, inputs: [torch.device('cpu'), torch.device('meta')])
    devices, rand = [], torch.rand
    monkeypatch.setattr(torch, 'rand', lambda *args, device: devices.append(device.type) or rand(*args))
    assert_same_gradients(network(nn.Linear(4, 4)), *streams())
    assert devices == ['cpu', 'meta'] * 2
