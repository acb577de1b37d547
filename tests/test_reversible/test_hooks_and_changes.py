"""Hooks, side effects, generators, and changes between forward and backward."""
import sys
from functools import partial

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from mmrev.reversible import AdditiveStep, NewStream, ReversibilityError, ReversibleSequence, TwoStreamCoupling
from mmrev.reversible import gradients as engine_gradients
from mmrev.testing import set_reversible
from support.networks import NETWORKS, inputs, loss_of, mlp, network, two_stream


def gradients(module):
    torch.manual_seed(1)
    loss_of(module(*inputs('two_stream'))).backward()
    return {name: p.grad for name, p in module.named_parameters()}


def assert_close(ours, expected):
    for name, x in expected.items():
        torch.testing.assert_close(ours[name], x, rtol=1e-9, atol=1e-12, msg=name)


def both(change):
    """Gradients of a network and of its twin under plain autograd after ``change(module)``."""
    found = []
    for reversible in (True, False):
        module = set_reversible(network(), reversible)
        seen = change(module)
        found.append((gradients(module), seen))
    return found


@pytest.mark.parametrize('keep', ['undo', 'graph'])
def test_tensor_hooks_on_weights_run_once(keep):

    def change(module):
        module.keep = keep
        seen = []
        for p in module.parameters():
            p.register_hook(lambda g: g * 10)
            p.register_hook(lambda g: seen.append(float(g.sum())))
        return seen

    (ours, ours_seen), (expected, expected_seen) = both(change)
    assert_close(ours, expected)
    assert sorted(ours_seen) == pytest.approx(sorted(expected_seen))


def test_post_accumulate_and_multi_grad_hooks_run_once():

    def change(module):
        seen = []
        for p in module.parameters():
            p.register_post_accumulate_grad_hook(lambda p: seen.append(float(p.grad.sum())))
        torch.autograd.graph.register_multi_grad_hook(
            list(module.parameters()), lambda grads: seen.append(sum(float(g.sum()) for g in grads)))
        return seen

    (ours, ours_seen), (expected, expected_seen) = both(change)
    assert_close(ours, expected)
    assert sorted(ours_seen) == pytest.approx(sorted(expected_seen)) and len(ours_seen) == 17


def test_hooks_on_weights_outlast_an_interrupt_while_they_are_set_aside():
    module = network()
    for p in module.parameters():
        p.register_hook(lambda g: g * 10)
    code, last = engine_gradients.differentiate_without.__code__, list(module.parameters())[-4:]

    def interrupt(frame, event, arg):
        if frame.f_code is code and event == 'line' and not any(p._backward_hooks for p in last):
            raise KeyboardInterrupt
        return interrupt

    sys.settrace(interrupt)
    with pytest.raises(KeyboardInterrupt):
        gradients(module)
    sys.settrace(None)
    assert all(len(p._backward_hooks) == 1 for p in module.parameters())


class KeepsGradients(nn.Module):
    """A hook within it keeps what ``kept_as`` makes of its output's gradient."""

    def __init__(self, kept_as):
        super().__init__()
        self.linear, self.kept, self.kept_as = nn.Linear(6, 6), [], kept_as

    def forward(self, x):
        y = self.linear(x)
        if y.requires_grad:
            y.register_hook(lambda g: self.kept.append(self.kept_as(g)))
        return y


@pytest.mark.parametrize('keep', ['undo', 'graph'])
@pytest.mark.parametrize('kept_as', [lambda g: g, torch.Tensor.detach, torch.Tensor.numpy],
                         ids=['itself', 'view', 'array'])
def test_gradients_that_a_hook_within_keeps_stay_as_they_were(kept_as, keep):
    """A step's gradient becomes that of an input, to which autograd adds the next backward's."""
    function = KeepsGradients(kept_as)
    module = network(lambda: function, mlp)
    module.keep = keep
    streams = inputs('two_stream')
    loss_of(module(*streams)).backward()
    first = torch.as_tensor(function.kept[0]).clone()
    loss_of(module(*streams)).backward()
    torch.testing.assert_close(torch.as_tensor(function.kept[0]), first)


class Auxiliary(nn.Module):
    """Stores a loss of its own, with a graph or detached."""

    def __init__(self, detach):
        super().__init__()
        self.linear, self.detach = nn.Linear(6, 6), detach

    def forward(self, x):
        y = self.linear(x)
        loss = y.square().mean()
        self.loss = loss.detach() if self.detach else loss
        return y.sin()


@pytest.mark.parametrize('keep', ['undo', 'graph'])
def test_a_loss_stored_on_a_module_is_refused_by_name(keep):
    module = network(mlp, partial(Auxiliary, detach=False))
    module.keep = keep
    with pytest.raises(ReversibilityError, match=r'step 1 \(`couplings.0.g`, Auxiliary\) leaves a tensor behind'):
        gradients(module)


def test_a_detached_cache_is_no_obstacle():
    gradients(network(mlp, partial(Auxiliary, detach=True)))


def test_a_forward_hook_that_takes_activations_is_refused_once_it_is_there():
    module, taken = network(), {}
    gradients(module)
    handle = module.couplings[1].f[0].register_forward_hook(lambda m, args, out: taken.update(out=out))
    with pytest.raises(ReversibilityError, match='couplings.1.f.*leaves a tensor behind'):
        gradients(module)
    handle.remove()
    module.couplings[1].f[0].register_forward_hook(lambda m, args, out: taken.update(out=out.detach()))
    gradients(module)


def test_a_second_hook_for_all_modules_that_takes_activations_is_refused():
    register, module, taken = nn.modules.module.register_module_forward_hook, network(), []
    first = register(lambda *_: None)
    gradients(module)
    second = register(lambda m, args, out: taken.append(out) if isinstance(m, nn.Linear) else None)
    try:
        with pytest.raises(ReversibilityError, match='leaves a tensor behind'):
            gradients(module)
    finally:
        first.remove()
        second.remove()


def test_a_function_that_changes_is_looked_at_again_after_train():
    module = network(mlp, partial(Auxiliary, detach=True))
    gradients(module)
    module.couplings[0].g.detach = False
    module.train()
    with pytest.raises(ReversibilityError, match='leaves a tensor behind'):
        gradients(module)


class OwnGenerator(nn.Module):
    """Dropout from a generator of its own."""

    def __init__(self):
        super().__init__()
        self.linear, self.generator = nn.Linear(6, 6), torch.Generator()

    def forward(self, x):
        return self.linear(x) * torch.empty_like(x).bernoulli_(0.5, generator=self.generator)


def test_a_modules_own_generator_is_replayed():
    module = network(OwnGenerator, OwnGenerator, mlp, OwnGenerator)
    for step in range(3):
        found = []
        for reversible in (True, False):
            set_reversible(module, reversible).zero_grad()
            for m in module.modules():
                if isinstance(m, OwnGenerator):
                    m.generator.manual_seed(step)
            found.append({n: g.clone() for n, g in gradients(module).items()})
        assert_close(*found)


class Scaled(nn.Module):

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.register_buffer('scale', torch.ones(6))

    def forward(self, x):
        return self.linear(x) * self.scale


def test_a_buffer_replaced_before_the_backward_does_not_matter():
    found = []
    for reversible in (True, False):
        module = set_reversible(network(Scaled, Scaled), reversible)
        loss = loss_of(module(*inputs('two_stream')))
        module.couplings[0].f.scale = torch.zeros(6, dtype=torch.float64)
        loss.backward()
        assert not module.couplings[0].f.scale.any()
        found.append({name: p.grad for name, p in module.named_parameters()})
    assert_close(*found)


def test_a_buffer_changed_in_place_before_the_backward_is_refused_as_by_plain_autograd():
    for reversible in (True, False):
        module = set_reversible(network(Scaled, Scaled), reversible)
        loss = loss_of(module(*inputs('two_stream')))
        module.couplings[0].f.scale.mul_(2)
        with pytest.raises(RuntimeError, match='`scale`.*couplings.0.f' if reversible else 'inplace operation'):
            loss.backward()


def test_weights_replaced_before_the_backward_do_not_matter():
    found = []
    for reversible in (True, False):
        module = set_reversible(network(), reversible)
        weights = {k: (p.detach() * 2).requires_grad_() for k, p in module.named_parameters()}
        loss = loss_of(torch.func.functional_call(module, weights, inputs('two_stream')))
        loss.backward()
        found.append({k: w.grad for k, w in weights.items()})
    assert_close(*found)


def test_new_data_of_a_weight_before_the_backward_is_refused():
    module = network()
    loss = loss_of(module(*inputs('two_stream')))
    module.couplings[0].f[0].weight.data = torch.zeros(12, 6, dtype=torch.float64)
    with pytest.raises(ReversibilityError, match='`weight` of step 0 .`couplings.0.f`.*modified'):
        loss.backward()


class InPlainLists(nn.Module):
    """A coupling that does not register its functions as children."""

    def __init__(self, *functions):
        super().__init__()
        self.functions = list(functions)

    def steps(self):
        return [AdditiveStep(f, i, (1 - i, )) for i, f in enumerate(self.functions)]


def test_modes_of_functions_that_are_no_children_are_noticed():
    torch.manual_seed(0)
    functions = [nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)).double() for _ in range(2)]
    module = ReversibleSequence([InPlainLists(*functions)])
    streams = [torch.randn(4, 6, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    loss_of(module(*streams)).backward()
    for f in functions:
        f.eval()
    found = [torch.autograd.grad(loss_of(network(*streams)), streams)
             for network in (module, ReversibleSequence(module.couplings, reversible=False))]
    for x, expected in zip(*found):
        torch.testing.assert_close(x, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('on', [True, False])
def test_requires_grad_switched_in_between_is_as_under_plain_autograd(on):
    found = []
    for reversible in (True, False):
        module = set_reversible(network(), reversible)
        module.couplings[0].f[0].weight.requires_grad_(not on)
        loss = loss_of(module(*inputs('two_stream')))
        module.couplings[0].f[0].weight.requires_grad_(on)
        loss.backward()
        found.append({n: p.grad for n, p in module.named_parameters() if p.grad is not None})
    assert found[0].keys() >= found[1].keys() - {'couplings.0.f.0.weight'}
    assert_close(found[0], {n: g for n, g in found[1].items() if n in found[0]})


def test_running_statistics_that_a_training_forward_moved_in_between_are_noticed():
    module = NETWORKS['halves'](depth=2).eval()
    loss = loss_of(module(*inputs('halves')))
    module.train()
    with torch.no_grad():
        module(*inputs('halves'))
    with pytest.raises(ReversibilityError, match='num_batches_tracked'):
        loss.backward()


def test_sparse_gradients():

    class Embed(nn.Module):

        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(5, 6, sparse=True)

        def forward(self, x):
            return x.sin() * self.table(torch.arange(5))

    ours, plain = (gradients(set_reversible(network(Embed, Embed), r)) for r in (True, False))
    for name, g in plain.items():
        assert ours[name].is_sparse
        torch.testing.assert_close(ours[name].to_dense(), g.to_dense())


class Gathered(nn.Module):

    def forward(self, x):
        return torch.gather(x, 1, torch.tensor([[0, 1], [2, 0]]), sparse_grad=True)


@pytest.mark.parametrize('keep', ['undo', 'graph'])
def test_sparse_gradients_of_an_input(keep):
    gradients = []
    for reversible in (True, False):
        x = torch.ones(2, 4, dtype=torch.float64, requires_grad=True)
        ReversibleSequence([NewStream(Gathered(), 1, (0, ))], reversible, keep=keep)(x)[1].pow(2).sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients)


class Tied(nn.Module):
    """A table of embeddings that is also a weight."""

    def __init__(self, table, sparse):
        super().__init__()
        self.table, self.sparse = table, sparse

    def forward(self, x):
        return x.sin() * self.table(torch.arange(5)) if self.sparse else x @ self.table.weight[:6]


@pytest.mark.parametrize('order', [(True, False), (False, True)])
def test_sparse_and_dense_gradients_of_one_weight_are_added(order):

    def coupled():
        table = nn.Embedding(7, 6, sparse=True)
        return TwoStreamCoupling(*[Tied(table, sparse) for sparse in order])

    found = []
    for reversible in (True, False):
        torch.manual_seed(0)
        found.append(gradients(ReversibleSequence([coupled()], reversible).double()))
    assert_close({name: g.to_dense() for name, g in found[0].items()}, {n: g.to_dense() for n, g in found[1].items()})


def test_lazy_modules_are_told_to_be_initialized_first():
    module = ReversibleSequence([TwoStreamCoupling(nn.LazyLinear(6), nn.Linear(6, 6))])
    with pytest.raises(ReversibilityError, match='not initialized yet.*torch.no_grad'):
        module(torch.randn(2, 6), torch.randn(2, 6))


class Comparisons(TorchDispatchMode):

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.equal.default, torch.ops.aten._local_scalar_dense.default):
            self.found.append(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('name', NETWORKS)
def test_no_values_are_compared(name):
    module = NETWORKS[name]()
    with Comparisons() as mode:
        for _ in range(2):
            loss_of(module(*inputs(name))).backward()
    assert not mode.found


@pytest.mark.slow
@pytest.mark.parametrize('name', ['two_stream', 'pyramid'])
def test_fake_tensors(name):
    module, shapes = NETWORKS[name](), [x.shape for x in inputs(name, requires_grad=False)]
    with FakeTensorMode(allow_non_fake_inputs=True):
        streams = [torch.empty(s, dtype=torch.float64, requires_grad=True) for s in shapes]
        for _ in range(2):
            sum(x.sum() for x in module(*streams)).backward()
    assert streams[0].grad.shape == streams[0].shape


def test_transforms_take_the_plain_path():
    module = network().eval()
    a, b = inputs('two_stream', requires_grad=False)
    weights = {k: p.detach() for k, p in module.named_parameters()}
    found = torch.func.grad(lambda w: loss_of(torch.func.functional_call(module, w, (a, b))))(weights)
    assert_close(found, gradients(set_reversible(module, False)))
    set_reversible(module, True)
    _, tangent = torch.func.jvp(lambda x: module(x, b)[0], (a, ), (torch.ones_like(a), ))
    assert tangent.abs().sum() > 0


@pytest.mark.parametrize('requires_grad', [True, False])
def test_replicas_of_data_parallel_are_refused(requires_grad):
    replica = two_stream(1)._replicate_for_data_parallel()
    with pytest.raises(ReversibilityError, match='DataParallel'):
        replica(*inputs('two_stream', requires_grad=requires_grad))


@pytest.mark.parametrize('what', ['function', 'coupling'])
def test_a_part_within_fully_sharded_data_parallel_is_refused(what):
    fsdp = pytest.importorskip('torch.distributed.fsdp')
    module = two_stream(1)
    wrapper = fsdp.FullyShardedDataParallel.__new__(fsdp.FullyShardedDataParallel)  # without a process group
    torch.nn.Module.__init__(wrapper)
    if what == 'function':
        wrapper._fsdp_wrapped_module, module.couplings[0].f = module.couplings[0].f, wrapper
    else:
        wrapper._fsdp_wrapped_module, module.couplings[0] = module.couplings[0], wrapper
    with pytest.raises(ReversibilityError, match='is wrapped by FullyShardedDataParallel.*apply .*fully_shard'):
        module(*inputs('two_stream'))


@pytest.mark.parametrize('requires_grad', [True, False])
def test_a_network_within_fully_sharded_data_parallel_is_refused_by_that_name(requires_grad):
    """It replaces weights by views of one flat parameter, which no module has."""
    module = two_stream(1)
    for m in module.modules():
        for name, weight in list(m._parameters.items()):
            flat = torch.nn.Parameter(weight.detach().flatten())
            flat._is_flat_param = True  # as of torch.distributed.fsdp.FlatParameter
            del m._parameters[name]
            m.__dict__[name] = flat.view(weight.shape)
    with pytest.raises(ReversibilityError, match=r'step \d .*is trained within FullyShardedDataParallel'):
        loss_of(module(*inputs('two_stream', requires_grad=requires_grad))).backward()
