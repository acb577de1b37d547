"""Small networks for the tests of `save_memory`, and one training step of plain and saving ones."""
import copy

import torch
import torch.nn.functional as F
from torch import nn


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
        gate, first=nn.Sequential(conv(bias=False), nn.BatchNorm2d(8)), squeeze=nn.Conv2d(8, 8, 1), last=conv()),
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
