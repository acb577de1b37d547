"""Steps that keep their graphs under saved-tensor hooks, which may keep tensors as they are, or copy them."""
import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks

from mmrev import compat
from mmrev.reversible import ReversibilityError, ReversibleSequence, TwoStreamCoupling

HOOKS = {
    'save_on_cpu': save_on_cpu,
    'as they are': lambda: saved_tensors_hooks(lambda x: x, lambda x: x),
    'copies': lambda: saved_tensors_hooks(lambda x: x.detach().clone(), lambda x: x),
}
every_hook = pytest.mark.parametrize('hooks', HOOKS.values(), ids=HOOKS)
tells_hooks = pytest.mark.skipif(not compat.can_save_memory, reason='PyTorch before 2.5 cannot return active hooks')


class Norms(nn.Module):
    """Uses one of the norms that all functions hold."""

    def __init__(self, norms, i):
        super().__init__()
        self.conv, self.norms, self.i = nn.Conv2d(4, 4, 1), norms, i

    def forward(self, x):
        return self.norms[self.i](self.conv(x)).relu()


def build(**kwargs):
    torch.manual_seed(0)
    norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(4))
    couplings = [TwoStreamCoupling(Norms(norms, i), Norms(norms, i + 1)) for i in (0, 2)]
    return ReversibleSequence(couplings, **kwargs).double()


def gradients(model, hooks, loss, forwards):
    """Those of three training steps, each of several forwards before the backward, and the buffers after them."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(3):
        outs = []
        for _ in range(forwards):
            x = torch.randn(2, 4, 5, 5, dtype=torch.float64, generator=generator).requires_grad_()
            with hooks():
                outs.append((x, *model(x, x.cos())))
        loss(outs).backward()
        found += [x.grad for x, *_ in outs]
    found += [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return found, dict(model.named_buffers())


@tells_hooks
@every_hook
@pytest.mark.parametrize('keep', ['graph', ['graph', 'undo', 'state', 'graph']])
@pytest.mark.parametrize('used', [(1, ), (2, ), (1, 2)], ids=['first', 'second', 'both'])
@pytest.mark.parametrize('forwards', [1, 2])
def test_as_plain_autograd(hooks, keep, used, forwards):
    def loss(outs):
        return sum(out[i].sin().sum() for out in outs for i in used)

    found, expected = (gradients(build(keep=keep, reversible=reversible), hooks, loss, forwards)
                       for reversible in (True, False))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.skipif(not compat.can_save_memory, reason='before 2.5 a backward cannot know if graphs are retained')
@every_hook
def test_a_tensor_that_a_function_leaves_behind_is_refused(hooks):
    model = build(keep='graph')
    kept = []
    model.couplings[0].f.conv.register_forward_hook(lambda m, args, out: kept.append(out))
    with hooks():
        out = model(*torch.randn(2, 2, 4, 5, 5, dtype=torch.float64))
    with pytest.raises(ReversibilityError, match='couplings.0.f.*leaves a tensor behind'):
        sum(x.sum() for x in out).backward()


def test_hooks_are_given_the_parameters_themselves():
    model = build(keep='graph')
    given = []
    with saved_tensors_hooks(lambda x: given.append(x) or x, lambda x: x):
        model(*torch.randn(2, 2, 4, 5, 5, dtype=torch.float64))
    assert {id(p) for n, p in model.named_parameters() if n.endswith('weight')} <= set(map(id, given))


@tells_hooks
@pytest.mark.parametrize('keep', ['undo', 'graph'])
@pytest.mark.parametrize('overlap', [False, True])
def test_hooks_around_the_backward_alone_have_no_effect(keep, overlap):
    found = []
    for reversible in (True, False):
        torch.manual_seed(0)
        linears = [nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8)) for _ in range(4)]
        model = ReversibleSequence([TwoStreamCoupling(*linears[:2]), TwoStreamCoupling(*linears[2:])], keep=keep,
                                   overlap=overlap and reversible, reversible=reversible).double()
        given = []
        for _ in range(2):
            loss = sum(x.sin().sum() for x in model(*torch.randn(2, 3, 8, dtype=torch.float64)))
            with saved_tensors_hooks(lambda x: given.append(x) or x.bfloat16(), Tensor.double):
                loss.backward()
                x = torch.ones(2, dtype=torch.float64, requires_grad=True)
                x.square()
        assert len(given) == 2 and compat.saved_tensor_hooks() is None  # those after the backward see the square
        found.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-11)
