"""`save_memory` on networks that change, hook, share or hide their tensors: the same, or a clear error."""
import copy

import pytest
import torch
import torch.nn.functional as F
from support.saving import Calls, assert_same, block, conv, images, stage, train_once
from torch import nn

import mmrev


def test_a_kept_tensor_that_is_changed_in_place_is_refused_as_by_plain_autograd():

    def change(m, x):
        x = m.first(x)
        y = m.norm(x)
        x.mul_(2)
        return m.last(y)

    for saves in (False, True):
        model = Calls(change, first=conv(), norm=nn.BatchNorm2d(8), last=conv()).double()
        if saves:
            mmrev.save_memory(model)
        out = model(images())
        with pytest.raises(RuntimeError, match='modified by an inplace operation'):
            out.sum().backward()


def test_a_weight_that_changes_before_backward_is_refused():
    model = block(nn.ReLU()).double()
    mmrev.save_memory(model)
    out = model(images())
    with torch.no_grad():
        model[1].weight.mul_(2)
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        out.sum().backward()


@pytest.mark.parametrize('shown', ['by its view', 'by itself'])
def test_values_before_and_after_a_change_in_place_are_told_apart(shown):

    def change(m, x):
        y = F.relu(m.norm(m.first(x)))
        before = y.clone() * 2
        if m.copies:  # plain autograd refuses to do without, for it keeps the changed tensor
            y = y.clone()
        changed = y[:, :8] if shown == 'by its view' else y
        changed += 3
        return m.last(y + before)

    plain = Calls(change, first=conv(), norm=nn.BatchNorm2d(8), last=conv()).double()
    saving = copy.deepcopy(plain)
    plain.copies, saving.copies = True, False
    mmrev.save_memory(saving)
    assert_same(train_once(plain, images()), train_once(saving, images()))


def test_hooks_see_the_tensors_and_may_replace_or_change_them():

    def hooked():
        torch.manual_seed(0)
        model = block(nn.ReLU(), nn.Identity()).double()
        seen = []
        model[1].register_forward_hook(lambda m, args, out: seen.append(out.detach().clone()))
        model[2].register_forward_hook(lambda m, args, out: out * 2)
        model[0].register_forward_hook(lambda m, args, out: out.add_(1))
        model[2].register_full_backward_hook(lambda m, grads, outs: (grads[0] * 3, ))
        return model, seen

    (plain, seen), (saving, seen_too) = hooked(), hooked()
    mmrev.save_memory(saving)
    assert_same(train_once(plain, images()), train_once(saving, images()))
    assert torch.equal(seen[0], seen_too[0])


@pytest.mark.parametrize('size', [200, 260])
def test_indices_of_large_poolings_fit_into_their_type(size):
    layers = nn.Conv2d(8, 1, 1), nn.BatchNorm2d(1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(1, 1, 1)
    plain = nn.Sequential(*layers).double()
    saving = copy.deepcopy(plain)
    mmrev.save_memory(saving)
    assert_same(train_once(plain, images(size=size)), train_once(saving, images(size=size)), 0)


class Centered(nn.Module):
    """Subtracts a running mean that it updates afterwards, which autograd does not notice."""

    def __init__(self):
        super().__init__()
        self.layer, self.last = conv(), conv()
        self.register_buffer('mean', torch.zeros(1, 8, 1, 1))

    def forward(self, x):
        x = F.relu(self.layer(x))
        y = x - self.mean
        self.mean.lerp_(x.detach().mean((0, 2, 3), keepdim=True), 0.1)
        return self.last(y)


def hostile(change, **modules):
    """A network with a function between two layers."""
    return lambda: Calls(lambda m, x: m.last(change(m, F.relu(m.norm(m.first(x))))), first=conv(),
                         norm=nn.BatchNorm2d(8), last=conv(), **copy.deepcopy(modules))


def with_arguments_that_change(m, x):
    padding, kernel = [1, 1, 1, 1], [3, 3]
    x = F.avg_pool2d(F.pad(x, padding), kernel, 1)
    padding[:], kernel[:] = [0] * 4, [1, 1]
    return x


def with_inference(m, x):
    with torch.inference_mode():
        small, large = torch.full((8, 1, 1), 2, dtype=x.dtype), x * 2
    return torch.cat([x[:, :4] + small[:4], large[:, 4:]], 1)


def with_gradients(m, x):
    x = F.silu(x)
    grad, = torch.autograd.grad(F.silu(x * torch.sigmoid(x)).square().sum(), x, create_graph=True)
    return x + grad


def with_changes(m, x):
    x = x + x
    x += x
    x = torch.empty_like(x).copy_(x.clamp_(-1, 1))
    x[:, :2] = 0
    x[:, 2:4].mul_(2)
    return F.relu6(x.expand(2, *x.shape).reshape(-1, *x.shape[1:])[:len(x)].transpose(2, 3), inplace=True)


def spectral():
    model = block(nn.ReLU())
    torch.nn.utils.parametrizations.spectral_norm(model[0])
    torch.nn.utils.parametrizations.weight_norm(model[3])
    return model


def sources(m, x):
    """Half of what a concatenation takes is stored for it alone."""
    return F.relu(m.norm(m.first(x))), m.other(x)


def changed_after_a_concatenation(m, x):
    y, a = sources(m, x)
    total = 0
    for change in (lambda t: t.add_(1), lambda t: t[:, 1:3].zero_(), lambda t: F.dropout(t, 0.5, True, True),
                   lambda t: F.relu(input=t, inplace=True), lambda t: torch._foreach_mul_([t], 2.),
                   lambda t: torch.ops.aten.sigmoid_(t), lambda t: t.detach().copy_(t * 2), lambda t: t.data.mul_(3),
                   lambda t: t.detach().numpy().fill(1)):
        b = a * 1
        out = m.last(torch.cat([y, b, y], 1)[:, 4:12])
        change(b)
        total = total + out + b
    return total


def changed_without_a_version(m, x):
    y = F.relu(m.norm(m.first(x)))
    y.data.mul_(2)
    z = F.silu(m.other(y))
    z.detach().numpy()[:, :2] = 0
    return m.last(z)


def biases_changed_as_data(m, x):
    out = m.last(F.relu(m.norm(m.first(x))))
    m.norm.bias.data.add_(1)
    return out


def evaluated_and_then_trained(m, x):
    first = m.first(x)
    out = m.other(F.relu(m.norm.eval()(first)))
    return out + m.last(F.relu(m.norm.train()(first)))


def conjugated(m, x):
    a = torch.complex(m.first(x), m.other(x))
    square = a * a  # keeps its argument, so that the next sum has a recipe
    b = (a + 1j).conj()
    return torch.view_as_real(square * (b * b) * (a * torch.sigmoid(a))).sum(-1)


class Reverse(torch.autograd.Function):
    """Reverses the gradient."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return -grad


def gates_with_gradients_of_their_own(m, x):
    x = m.norm(m.first(x))
    hooked = torch.sigmoid(x)
    hooked.register_hook(lambda grad: grad * 0.1)
    detached = x.detach().requires_grad_()
    return m.last(x * hooked + x * torch.sigmoid(Reverse.apply(x)) + x * Reverse.apply(torch.sigmoid(x))
                  + detached * torch.sigmoid(x) + x * torch.sigmoid(detached))


def watched_gate():
    swish = Calls(lambda m, x: x * m.gate(x), gate=nn.Sigmoid())
    swish.gate.register_full_backward_hook(lambda m, grads, outs: (grads[0] * 0.3, ))
    return block(swish)


def asks_for_the_type(m, x):
    assert x.type() == 'torch.DoubleTensor'
    return m.last(F.relu(m.norm(m.first(x))))


def sees(function):
    return lambda: Calls(function, first=conv(), norm=nn.BatchNorm2d(8), other=conv(), last=conv())


HOSTILE = {
    'changes in place after a concatenation': sees(changed_after_a_concatenation),
    'changes that no version tells': sees(changed_without_a_version),
    'a bias whose data changes': sees(biases_changed_as_data),
    'running statistics that are updated after their use': sees(evaluated_and_then_trained),
    'conjugates': sees(conjugated),
    'gates with gradients of their own': sees(gates_with_gradients_of_their_own),
    'a gate with a backward hook': watched_gate,
    'the type as a string': sees(asks_for_the_type),
    'a buffer that changes after its use': Centered,
    'lists that change after the call': hostile(with_arguments_that_change),
    'tensors of inference mode': hostile(with_inference),
    'gradients within the forward': hostile(with_gradients),
    'views, copies and changes in place': hostile(with_changes),
    'sparse tensors': hostile(lambda m, x: torch.sparse.mm(
        (m.weight * 2).to_sparse(), x.transpose(0, 1).flatten(1)).view_as(x.transpose(0, 1)).transpose(0, 1),
        weight=nn.Parameter(torch.eye(8))),
    'vmap': hostile(lambda m, x: torch.vmap(lambda a: F.silu(a) * torch.sigmoid(a) + 1)(x)),
    'complex numbers': hostile(lambda m, x: F.relu(torch.fft.irfft2(torch.fft.rfft2(x) * 2, s=x.shape[-2:]))),
    'other floating-point types': hostile(lambda m, x: torch.add(x.float() * 2, x).to(torch.float16).to(x.dtype)),
    'fake quantization': hostile(lambda m, x: torch.fake_quantize_per_tensor_affine(
        x.float(), 0.1, 0, 0, 255).to(x.dtype)),
    'parametrizations': spectral,
    'a block that runs three times': lambda: nn.Sequential(*[block(nn.SiLU(True)), nn.ReLU(True)] * 3),
    'channels_last': lambda: nn.Sequential(stage(), nn.MaxPool2d(3, 1, 1), stage(act=nn.SiLU())).to(
        memory_format=torch.channels_last),
}


@pytest.mark.parametrize('level', ['cheap', 'blocks'])
@pytest.mark.parametrize('name', HOSTILE)
def test_hostile_networks_are_the_same(name, level):
    torch.manual_seed(0)
    plain = HOSTILE[name]().double()
    saving = copy.deepcopy(plain)
    mmrev.save_memory(saving, level, None if level == 'cheap' else [''])
    assert_same(train_once(plain, images()), train_once(saving, images()))


@pytest.mark.parametrize('autocast', [False, True])
@pytest.mark.parametrize('frozen', [False, True])
@pytest.mark.parametrize('level', ['cheap', 'blocks'])
def test_inputs_and_weights_of_one_size_are_told_apart(level, frozen, autocast):
    """64 tokens of 64 channels, weights of 64 x 64, attention of 64 x 64."""

    def mix(m, x):
        x = m.second(m.norm(m.first(x)))
        heads = m.third(x).unflatten(-1, (1, 64)).transpose(1, 2)
        return m.last(heads.transpose(-1, -2) @ (x.unsqueeze(1) @ heads.flip(-1)))

    layers = {name: nn.Linear(64, 64) for name in ('first', 'second', 'third', 'last')}
    plain = Calls(mix, norm=nn.LayerNorm(64), **layers)
    plain.second.requires_grad_(not frozen)
    saving = copy.deepcopy(plain)
    mmrev.save_memory(saving, level, None if level == 'cheap' else [''])
    for shape in ((1, 64, 64), (4, 16, 64)):
        x = torch.randn(*shape)
        if shape[0] == 1:
            assert_same(train_once(plain, x, autocast), train_once(saving, x, autocast), 1e-6)
        else:
            for model in (plain, saving):
                model.zero_grad()
                with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
                    out = model.second(model.norm(model.first(x)))
                out.float().square().sum().backward()
            assert all(a.grad is None or torch.equal(a.grad, b.grad)
                       for a, b in zip(plain.parameters(), saving.parameters()))


def test_shared_norms_tied_weights_and_scripted_modules_are_the_same():

    def build():
        torch.manual_seed(0)
        norm, layer, other = nn.BatchNorm2d(8), conv(), conv()
        other.weight = layer.weight
        scripted = torch.jit.script(nn.Sequential(conv(), nn.BatchNorm2d(8), nn.ReLU6(True)).double())
        return nn.Sequential(layer, norm, nn.ReLU(True), other, norm, nn.SiLU(True), scripted, conv()).double()

    plain, saving = build(), build()
    report = mmrev.save_memory(saving)
    assert_same(train_once(plain, images()), train_once(saving, images()))
    assert report.kept < report.plain


@pytest.mark.parametrize('asks', ['register_hook', 'retain_grad'])
def test_the_gradient_of_a_gate_is_asked_for_before_its_product_or_refused(asks):

    def late(m, x):
        gate = torch.sigmoid(x)
        out = x * gate
        getattr(gate, asks)(*[print] * (asks == 'register_hook'))
        return m.last(out)

    model = Calls(late, last=conv())
    mmrev.save_memory(model)
    with pytest.raises(RuntimeError, match='before the multiplication'):
        model(images(torch.float32).requires_grad_())


def test_lazy_modules_are_initialized_by_the_first_forward():
    plain, saving = (nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.SiLU(True), nn.LazyConv2d(4, 1))
                     for _ in range(2))
    mmrev.save_memory(saving)
    assert_same(train_once(plain, images(torch.float32)), train_once(saving, images(torch.float32)), 0)
