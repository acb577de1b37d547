"""`save_memory`: the same function and the same gradients from less that is kept, whatever the network does."""
import copy
import gc
import pickle
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import mmrev
from mmrev.surgery.recompute.recorder import Recorder
from mmrev.surgery.recomputation import find_blocks
from mmrev.testing import PeakMemory


class Calls(nn.Module):
    """A network from a function of its modules and the input."""

    def __init__(self, function, **modules):
        super().__init__()
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.function(self, x)


def conv(cin=8, cout=8, **kwargs):
    return nn.Conv2d(cin, cout, 3, padding=1, **kwargs)


class Swish(nn.Module):
    """As mmcv's."""

    def forward(self, x):
        return x * torch.sigmoid(x)


def block(*middle, norm=None):
    return nn.Sequential(conv(), norm or nn.BatchNorm2d(8), *copy.deepcopy(middle), conv())


def residual(m, x):
    """A stage of ResNets that changes its tensors in place, as mmdet's do."""
    x = m.act(m.first(x))
    for conv1, norm1, conv2, norm2 in m.blocks:
        out = norm2(conv2(m.act(norm1(conv1(x)))))
        out += x
        x = m.act(out)
    return m.last(x)


def stage(depth=3, act=None):
    return Calls(residual, first=nn.Sequential(conv(), nn.BatchNorm2d(8)), act=act or nn.ReLU(inplace=True),
                 last=conv(),
                 blocks=nn.ModuleList(nn.ModuleList([conv(), nn.BatchNorm2d(8), conv(), nn.BatchNorm2d(8)])
                                      for _ in range(depth)))


def dense(m, x):
    features = [m.pool(m.first(x))]
    for norm, layer in zip(m.norms, m.layers):
        features.append(layer(F.relu(norm(torch.cat(features, 1)), inplace=True)))
    return torch.cat(features, 1)


def window(m, x):
    b, c, h, w = x.shape
    x = m.stem(x).permute(0, 2, 3, 1)
    y = torch.roll(F.pad(m.norm(x), (0, 0, 0, 2, 0, 2)), (-1, -1), (1, 2))
    y = y.view(b, 2, (h + 2) // 2, 2, (w + 2) // 2, 8).permute(0, 1, 3, 2, 4, 5).reshape(b * 4, -1, 8)
    y = m.out(F.gelu(m.hidden(y)))
    return y.mean() + m.norm(x + 1).mean((1, 2))


def gate(m, x):
    x = m.first(x)
    x = x * torch.sigmoid(x)
    scale = torch.sigmoid(m.squeeze(x.mean((2, 3), keepdim=True)))
    return m.last(x * scale)


def chunks(m, x):
    a, b = F.silu(m.first(x)).chunk(2, 1)
    return m.last(torch.cat([b, m.part(a), m.part(a) + a, F.max_pool2d(b, 3, 1, 1)], 1))


def attend(m, x):
    tokens = m.stem(x).flatten(2).transpose(1, 2)
    q, k, v = m.qkv(m.norm(tokens)).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
    mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
    return tokens + m.out(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))


NETWORKS = {
    **{type(act).__name__ + (', in place' if getattr(act, 'inplace', False) else ''): lambda act=act: block(act)
       for inplace in (False, True) for act in (
           nn.ReLU(inplace), nn.ReLU6(inplace), nn.LeakyReLU(0.1, inplace), nn.SiLU(inplace), nn.Hardswish(inplace),
           nn.Hardsigmoid(inplace), nn.Mish(inplace), nn.ELU(0.7, inplace), nn.CELU(0.7, inplace), nn.SELU(inplace),
           nn.Hardtanh(-0.5, 0.6, inplace))},
    **{type(act).__name__: lambda act=act: block(act)
       for act in (nn.GELU(), nn.GELU('tanh'), nn.Sigmoid(), nn.Tanh(), nn.Softplus(), nn.PReLU(8), nn.LogSigmoid(),
                    nn.Softsign())},
    'InstanceNorm': lambda: block(nn.ReLU(), norm=nn.InstanceNorm2d(8, affine=True)),
    'GroupNorm': lambda: block(nn.ReLU(), norm=nn.GroupNorm(2, 8)),
    'BatchNorm without weights': lambda: block(nn.SiLU(), norm=nn.BatchNorm2d(8, affine=False)),
    'BatchNorm without statistics': lambda: block(nn.SiLU(), norm=nn.BatchNorm2d(8, track_running_stats=False)),
    'BatchNorm with a plain average': lambda: block(nn.SiLU(), norm=nn.BatchNorm2d(8, momentum=None)),
    'dropout': lambda: block(nn.ReLU(), nn.Dropout(0.3), conv(), nn.BatchNorm2d(8), nn.Dropout2d(0.3)),
    'pooling': lambda: block(nn.ReLU(), nn.MaxPool2d(2), conv(), nn.MaxPool2d(3, 2, 1), conv(), nn.AvgPool2d(2)),
    'large pooling': lambda: block(nn.ReLU(), nn.MaxPool2d(5, 1, 2)),
    'upsampling': lambda: block(nn.ReLU(), nn.Upsample(scale_factor=2), nn.PixelUnshuffle(2), conv(32, 8)),
    'residual stage': stage,
    'residual stage, out of place': lambda: stage(act=nn.SiLU()),
    'dense block': lambda: Calls(
        dense, first=nn.Sequential(conv(), nn.BatchNorm2d(8), nn.ReLU()), pool=nn.AvgPool2d(2),
        norms=nn.ModuleList(nn.BatchNorm2d(8 + 4 * i) for i in range(3)),
        layers=nn.ModuleList(conv(8 + 4 * i, 4) for i in range(3))),
    'windows': lambda: Calls(window, stem=conv(), norm=nn.LayerNorm(8), hidden=nn.Linear(8, 32), out=nn.Linear(32, 8)),
    'squeeze and excitation': lambda: Calls(
        gate, first=nn.Sequential(conv(), nn.BatchNorm2d(8)), squeeze=nn.Conv2d(8, 8, 1), last=conv()),
    'views of one tensor': lambda: Calls(
        chunks, first=nn.Sequential(conv(), nn.BatchNorm2d(8)), part=conv(4, 4), last=conv(16, 8)),
    'attention by one function': lambda: Calls(
        attend, stem=block(nn.ReLU()), norm=nn.LayerNorm(8), qkv=nn.Linear(8, 24), out=nn.Linear(8, 8)),
    'attention': lambda: Calls(
        lambda m, x: m.layer(x.flatten(2).transpose(1, 2)),
        layer=nn.TransformerEncoderLayer(8, 2, 32, 0.1, 'gelu', batch_first=True, norm_first=True)),
}


def train_once(model, x, autocast=False):
    """Output, gradients and buffers of one step, with its random numbers."""
    torch.manual_seed(1)
    x = x.detach().clone().requires_grad_()
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        out = model(x)
    out.float().square().sum().backward() if autocast else (out * torch.randn_like(out)).sum().backward()
    return {'out': out.detach(), 'x': x.grad, **{f'{name}.grad': p.grad for name, p in model.named_parameters()},
            **{name: b.clone() for name, b in model.named_buffers()}}


def images(dtype=torch.float64, size=12):
    torch.manual_seed(0)
    return torch.randn(3, 8, size, size, dtype=dtype)


def assert_same(plain, saving, tolerance=1e-12):
    assert plain.keys() == saving.keys()
    for name, a in plain.items():
        b = saving[name]
        assert (a is None) == (b is None), (name, a, b)
        if a is not None:
            scale = a.double().abs().max().clamp(min=1)
            assert ((a.double() - b.double()).abs().max() <= tolerance * scale), name


@pytest.mark.parametrize('name', NETWORKS)
def test_outputs_gradients_and_statistics_are_the_same_from_less_that_is_kept(name):
    torch.manual_seed(0)
    plain = NETWORKS[name]().double()
    saving = copy.deepcopy(plain)
    report = mmrev.save_memory(saving)
    assert_same(train_once(plain, images()), train_once(saving, images()))
    assert report.images == 3 and report.kept < report.plain
    plain.eval(), saving.eval()
    for model in (plain, saving):
        model.zero_grad()
    assert_same(train_once(plain, images()), train_once(saving, images()))


@pytest.mark.parametrize('name', NETWORKS)
def test_float32_has_the_bits_of_plain_training_but_for_swish(name):
    torch.manual_seed(0)
    plain = NETWORKS[name]()
    saving = copy.deepcopy(plain)
    mmrev.save_memory(saving)
    tolerance = 1e-5 if name == 'squeeze and excitation' else 0
    assert_same(train_once(plain, images(torch.float32)), train_once(saving, images(torch.float32)), tolerance)


@pytest.mark.parametrize('name', NETWORKS)
def test_autocast_to_bfloat16_is_the_same(name):
    torch.manual_seed(0)
    plain = NETWORKS[name]()
    saving = copy.deepcopy(plain)
    report = mmrev.save_memory(saving)
    tolerance = 0.05 if name == 'squeeze and excitation' else 0
    x = images(torch.float32, 32)
    assert_same(train_once(plain, x, True), train_once(saving, x, True), tolerance)
    assert report.kept < report.plain


@pytest.mark.parametrize('autocast', [False, True])
@pytest.mark.parametrize('name', NETWORKS)
def test_blocks_that_are_computed_again_have_the_same_gradients(name, autocast):
    torch.manual_seed(0)
    dtype = torch.float32 if autocast else torch.float64
    plain = nn.Sequential(conv(), nn.ReLU(True), NETWORKS[name](), nn.ReLU(True)).to(dtype)
    saving, cheap = copy.deepcopy(plain), copy.deepcopy(plain)
    report, other = mmrev.save_memory(saving, 'blocks', ['2']), mmrev.save_memory(cheap)
    x = images(dtype, 32)
    assert_same(train_once(plain, x, autocast), train_once(saving, x, autocast), 0.05 if autocast else 1e-12)
    train_once(cheap, x, autocast)
    assert report.kept < other.kept


def test_blocks_keep_their_output_alone():
    x = images(torch.float32, 32)
    report = mmrev.save_memory(model := stage(), 'blocks')
    model.blocks = nn.ModuleList(Calls(lambda m, x: F.relu(m.layers(x) + x), layers=block(nn.ReLU(), nn.Dropout(0.1)))
                                 for _ in range(5))
    model.function = lambda m, x: nn.Sequential(*m.blocks)(m.first(x))
    blocks = list(find_blocks(model))
    assert blocks == [*model.blocks]
    report.remove()
    report = mmrev.save_memory(model, 'blocks')
    with PeakMemory() as memory:
        out = model(x)
        assert report.kept < 9 * x.numel() * 4  # images, stem, 5 outputs, 5 masks of a quarter
        out.sum().backward()
    assert memory.peak < 18 * x.numel() * 4


def test_names_of_blocks_are_checked():
    with pytest.raises(ValueError, match="no 'layer1'.*blocks"):
        mmrev.save_memory(stage(), 'blocks', ['layer1'])
    with pytest.raises(ValueError, match="level='blocks'"):
        mmrev.save_memory(stage(), modules=['blocks'])


def kept_bytes(model, x):
    with PeakMemory() as memory:
        out = model(x)
    return memory.current, out


def test_what_a_tally_counts_is_what_is_alive_after_the_forward():
    model = stage()
    report = mmrev.save_memory(model)
    alive, out = kept_bytes(model, images(torch.float32, 32))
    assert abs(alive - report.kept) < 0.1 * alive
    plain = kept_bytes(stage(), images(torch.float32, 32))[0]
    assert abs(plain - report.plain) < 0.05 * plain
    assert 'MiB per image' in str(report)


def test_the_last_relu_of_residual_blocks_is_not_kept():
    x = images(torch.float32, 32)
    report = mmrev.save_memory(stage := NETWORKS['residual stage']())
    stage(x)
    per_convolution = x.numel() * 4
    assert report.kept < 8.1 * per_convolution  # the images, and what each of the 7 norms takes
    assert report.plain >= 15 * per_convolution


def test_the_sums_of_a_long_residual_stream_are_not_stored_at_once():

    def stream(m, x):
        for norm, layer in zip(m.norms, m.layers):
            x = x + layer(norm(x))
        return x

    plain = Calls(stream, norms=nn.ModuleList(nn.LayerNorm(64) for _ in range(24)),
                  layers=nn.ModuleList(nn.Linear(64, 64, bias=False) for _ in range(24)))
    saving = copy.deepcopy(plain)
    mmrev.save_memory(saving)
    x = torch.randn(256, 64)
    results = []
    for model in (plain, saving):
        with PeakMemory() as memory:
            with torch.autocast('cpu', torch.bfloat16):  # the stream is in float32, what is added is not
                out = model(x)
            kept = memory.current
            out.sum().backward()
            weights = memory.current
        results.append((kept, memory.peak - weights, model.layers[0].weight.grad))
    (plain_kept, _, expected), (kept, peak, grad) = results
    assert torch.equal(expected, grad)
    assert kept < 0.65 * plain_kept and peak < kept + 6 * x.numel() * 4


def test_nothing_is_left_behind_after_backward():
    model = stage().double()
    mmrev.save_memory(model)
    train_once(model, images())
    gc.collect()
    gc.disable()
    try:
        with PeakMemory() as memory:
            for _ in range(2):
                out = model(images())
                feature = out.detach()
                out.sum().backward(retain_graph=True)
                out.sum().backward()
                model.zero_grad()
                del out
            assert memory.current <= feature.numel() * 8 + 1024
    finally:
        gc.enable()


def test_a_detached_feature_keeps_nothing_else_alive():
    model = block(nn.ReLU()).double()[:3]
    mmrev.save_memory(model)
    with PeakMemory() as memory:
        feature = model(images()).detach()
        assert memory.current <= feature.numel() * 8 + 2048


def test_backward_may_pass_twice():
    plain = stage().double()
    saving = copy.deepcopy(plain)
    mmrev.save_memory(saving)
    for model in (plain, saving):
        out = model(images())
        out.sum().backward(retain_graph=True)
        out.square().sum().backward()
    for a, b in zip(plain.parameters(), saving.parameters()):
        assert torch.equal(a.grad, b.grad)


def test_parts_of_the_graph_may_be_asked_for_one_by_one():
    plain = stage().double()
    saving = copy.deepcopy(plain)
    mmrev.save_memory(saving)
    grads = []
    for model in (plain, saving):
        x = images().requires_grad_()
        out = model(x)
        grads.append([torch.autograd.grad(out.sum(), w, retain_graph=True)[0]
                      for w in (model.last.weight, x, model.blocks[1][0].weight, x)])
    for a, b in zip(*grads):
        assert torch.equal(a, b)


def test_two_forwards_may_come_before_one_backward():
    plain = stage().double()
    saving = copy.deepcopy(plain)
    mmrev.save_memory(saving)
    for model in (plain, saving):
        (model(images()).sum() + model(images() * 2).square().sum()).backward()
    for a, b in zip(plain.parameters(), saving.parameters()):
        assert torch.equal(a.grad, b.grad)


@pytest.mark.parametrize('act', [nn.ReLU, nn.SiLU, nn.GELU, Swish])
def test_gradients_of_gradients_are_the_same(act):
    plain = block(act()).double()
    saving = copy.deepcopy(plain)
    mmrev.save_memory(saving)
    for model in (plain, saving):
        x = images().requires_grad_()
        grad, = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
        grad.square().sum().backward()
    for a, b in zip(plain.parameters(), saving.parameters()):
        if a.grad is not None:
            assert (a.grad - b.grad).abs().max() <= 1e-10 * a.grad.abs().max().clamp(min=1e-2)


def test_gradients_of_gradients_through_an_activation_in_place_are_refused():
    model = block(nn.SiLU(inplace=True)).double()
    mmrev.save_memory(model)
    x = images().requires_grad_()
    grad, = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        grad.square().sum().backward()


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


HOSTILE = {
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


def test_scripted_blocks_are_no_blocks():
    model = nn.Sequential(*(torch.jit.script(block(nn.SiLU(True))) for _ in range(3)))
    assert not find_blocks(model)
    mmrev.save_memory(model, 'blocks')
    train_once(model, images(torch.float32))


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


def test_frozen_parts_and_running_statistics_are_the_same():
    plain = stage().double()
    plain.blocks[0].requires_grad_(False)
    plain.first.requires_grad_(False)
    plain.blocks[0][1].eval(), plain.blocks[2][3].eval()
    saving = copy.deepcopy(plain)
    mmrev.save_memory(saving)
    assert_same(train_once(plain, images()), train_once(saving, images()))


@pytest.mark.parametrize('reentrant', [False, True])
def test_checkpointing_within_and_around_is_left_to_itself(reentrant):

    def within(m, x):
        x = m.head(x)
        x = checkpoint(m.body, x, use_reentrant=reentrant)
        return m.tail(F.relu(x))

    plain = Calls(within, head=block(nn.SiLU(True)), body=block(nn.SiLU(True)), tail=block(nn.ReLU(True))).double()
    saving = copy.deepcopy(plain)
    mmrev.save_memory(saving)
    assert_same(train_once(plain, images()), train_once(saving, images()))
    for model in (plain, saving):
        model.zero_grad()
    around = [lambda x, m=m: checkpoint(m, x, use_reentrant=reentrant) for m in (plain, saving)]
    for call in around:
        call(images().requires_grad_()).sum().backward()
    for a, b in zip(plain.parameters(), saving.parameters()):
        assert torch.equal(a.grad, b.grad)


def test_reversible_sequences_and_inplace_abn_within_are_the_same():
    from mmrev.layers import InPlaceABN
    from mmrev.reversible import ReversibleSequence, TwoStreamCoupling

    def within(m, x):
        a, b = m.reversible(*m.head(x).chunk(2, 1))
        return m.tail(torch.cat([a, b], 1))

    def f():
        return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU(True))

    plain = Calls(within, head=block(nn.SiLU(True)), reversible=ReversibleSequence([TwoStreamCoupling(f(), f())]),
                  tail=nn.Sequential(conv(), InPlaceABN(8), nn.Dropout(0.2), conv())).double()
    saving = copy.deepcopy(plain)
    mmrev.save_memory(saving)
    assert_same(train_once(plain, images()), train_once(saving, images()))


def test_state_dict_copies_and_pickles_are_those_of_the_model():
    plain = block(nn.SiLU(True))
    saving = copy.deepcopy(plain)
    report = mmrev.save_memory(saving)
    mmrev.save_memory(saving)  # once is enough
    assert len(saving._forward_pre_hooks) == 1
    assert plain.state_dict().keys() == saving.state_dict().keys()
    expected = train_once(plain, images(torch.float32))
    for copied in (copy.deepcopy(saving), pickle.loads(pickle.dumps(saving))):
        assert_same(expected, train_once(copied, images(torch.float32)), 0)
    report.remove()
    assert not saving._forward_pre_hooks and not saving._forward_hooks


@pytest.mark.parametrize('stop', [ValueError, KeyboardInterrupt])
def test_a_forward_that_fails_leaves_nothing_switched_on(stop):
    model = stage()
    mmrev.save_memory(model)
    handle = model.blocks[1][2].register_forward_pre_hook(lambda m, args: (_ for _ in ()).throw(stop()))
    with pytest.raises(stop):
        model(images(torch.float32))
    handle.remove()
    assert torch.isfinite(train_once(model, images(torch.float32))['out']).all()
    assert torch._C._autograd._top_saved_tensors_default_hooks(True) is None
    assert not torch.overrides._is_torch_function_mode_enabled()


@pytest.mark.parametrize('context', [torch.no_grad, torch.inference_mode])
def test_without_gradients_nothing_is_recorded(context, monkeypatch):
    model = block(nn.SiLU(True))
    expected = copy.deepcopy(model)(images(torch.float32))
    mmrev.save_memory(model)
    monkeypatch.setattr(Recorder, '__enter__', None)
    with context():
        assert torch.equal(model(images(torch.float32)), expected)


def test_children_that_are_called_alone_save_memory_too():
    model = nn.ModuleDict(dict(backbone=block(nn.SiLU(True)), head=conv()))
    mmrev.save_memory(model)
    x = images(torch.float32, 32)
    alive, _ = kept_bytes(model['backbone'], x)
    assert alive < 0.8 * kept_bytes(block(nn.SiLU(True)), x)[0]


def test_threads_do_not_disturb_each_other():
    torch.manual_seed(0)
    plain = stage().double()
    expected = train_once(copy.deepcopy(plain), images())
    inputs = [images().requires_grad_() for _ in range(3)]  # made here: threads share the random state
    results = {}

    def run(i):
        model, x = copy.deepcopy(plain), inputs[i]
        mmrev.save_memory(model)
        for _ in range(5):
            model.zero_grad()
            model(x).sum().backward()
        results[i] = model.last.weight.grad

    threads = [threading.Thread(target=run, args=(i, )) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3 and torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    assert expected['out'].shape == images().shape


@pytest.mark.parametrize('form', ['the model', 'its forward', 'a child', 'a function'])
def test_what_is_compiled_is_left_alone(form):
    torch._dynamo.reset()
    plain = nn.Sequential(block(nn.SiLU(True)), block(nn.ReLU(True))).double()
    saving = copy.deepcopy(plain)
    mmrev.save_memory(saving)
    call = saving
    if form == 'the model':
        call = torch.compile(saving, backend='aot_eager', fullgraph=True)
    elif form == 'its forward':
        saving.forward = torch.compile(saving.forward, backend='aot_eager', fullgraph=True)
    elif form == 'a child':
        saving[1] = torch.compile(saving[1], backend='aot_eager', fullgraph=True)
    else:
        saving[1].forward = torch.compile(saving[1].forward, backend='aot_eager', fullgraph=True)
    x = images()
    out = call(x)
    out.sum().backward()
    expected = plain(x)
    expected.sum().backward()
    assert (out - expected).abs().max() < 1e-12
    for a, b in zip(plain.parameters(), saving.parameters()):
        assert (a.grad - b.grad).abs().max() <= 1e-10 * max(1, a.grad.abs().max())


def test_tracing_export_and_transforms_see_the_plain_model():
    model = block(nn.SiLU())
    expected = copy.deepcopy(model).eval()
    mmrev.save_memory(model)
    model.eval()
    x = images(torch.float32)
    for form in (torch.jit.trace(model, x), torch.fx.symbolic_trace(model), torch.export.export(model, (x, )).module()):
        assert torch.allclose(form(x), expected(x), atol=1e-6)
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    buffers = dict(model.named_buffers())

    def loss(p, x):
        return torch.func.functional_call(model, (p, buffers), (x, )).square().sum()

    grads = torch.func.grad(loss)(parameters, x)
    expected(x).square().sum().backward()
    for name, p in expected.named_parameters():
        assert torch.allclose(grads[name], p.grad, rtol=1e-3, atol=1e-3)


def test_fake_tensors_and_the_meta_device_work():
    from torch._subclasses.fake_tensor import FakeTensorMode
    plain = stage()
    ratios = []
    for device in ('meta', 'fake'):
        if device == 'fake':
            with FakeTensorMode(allow_non_fake_inputs=True):
                model = stage()
                report = mmrev.save_memory(model)
                model(torch.empty(2, 8, 32, 32)).sum().backward()
        else:
            model = copy.deepcopy(plain).to('meta')
            report = mmrev.save_memory(model)
            model(torch.empty(2, 8, 32, 32, device='meta')).sum().backward()
        ratios.append(report.kept / report.plain)
    assert ratios[0] == pytest.approx(ratios[1], abs=0.02) and ratios[0] < 0.6


def test_levels_are_named():
    with pytest.raises(ValueError, match="'cheap'"):
        mmrev.save_memory(stage(), level='cheep')
