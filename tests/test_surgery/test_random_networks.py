"""Random networks on tensors whose dimensions are all 8, so that no two tensors can be distinguished by shape."""
import copy
import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mmrev

SIZE = 8
LAYERS = (lambda: nn.Linear(8, 8), lambda: nn.Linear(8, 8, bias=False), lambda: nn.Conv2d(8, 8, 1),
          lambda: nn.Conv2d(8, 8, 3, padding=1), lambda: nn.Conv2d(8, 8, 8, padding='same'), lambda: nn.LayerNorm(8),
          lambda: nn.BatchNorm2d(8), lambda: nn.BatchNorm2d(8).eval(), lambda: nn.GroupNorm(2, 8), lambda: nn.PReLU(8))
ACTIVATIONS = (F.relu, F.silu, F.gelu, F.hardswish, F.mish, F.relu6, F.leaky_relu, torch.sigmoid, torch.tanh, F.elu)
OVERWRITING = (F.relu, F.silu, F.hardswish, F.mish, F.relu6, F.leaky_relu, F.elu, F.hardsigmoid)
BINARY = (torch.add, torch.mul, torch.sub, torch.matmul, lambda a, b: torch.where(a > 0, a, b), lambda a, b: 1 - a,
          lambda a, b: a * torch.sigmoid(b.mean((2, 3), keepdim=True)), lambda a, b: torch.cat([a, b], 1)[:, 4:12],
          lambda a, b: torch.stack([a, b], 1)[:, 0], lambda a, b: a @ b.transpose(-1, -2),
          lambda a, b: F.scaled_dot_product_attention(a, b, a), lambda a, b: F.glu(torch.cat([a, b], 1), 1))
UNARY = (lambda a: a.transpose(1, 2), lambda a: a.permute(0, 2, 3, 1).contiguous(),
         lambda a: torch.roll(a, (1, 2), (2, 3)), lambda a: torch.cat(a.chunk(2, 1)[::-1], 1),
         lambda a: a.flatten(2).transpose(1, 2).reshape(a.shape), lambda a: a.flip(1),
         lambda a: F.max_pool2d(a, 3, 1, 1), lambda a: F.avg_pool2d(a, 3, 1, 1),
         lambda a: F.max_pool2d(a, 5, 1, 2), lambda a: F.dropout(a, 0.2, True), lambda a: a.softmax(-1),
         lambda a: a.contiguous(memory_format=torch.channels_last), lambda a: F.pad(a, (1, 1, 1, 1))[..., 1:-1, 1:-1])


def add_in_place(a, b):
    a += b
    return a


def change_a_view(a, b):
    a[:, :3] *= 0.5
    return a


IN_PLACE = (add_in_place, change_a_view, lambda a, b: a.mul_(b), lambda a, b: a.clamp_(-2, 2))


class RandomNetwork(nn.Module):

    def __init__(self, seed):
        super().__init__()
        self.seed = seed
        draw = random.Random(seed)
        self.layers = nn.ModuleList(draw.choice(LAYERS)() for _ in range(draw.randint(6, 20)))
        for layer in self.layers:
            layer.requires_grad_(draw.random() > 0.15)
        self.first, self.last = nn.Conv2d(8, 8, 1), nn.Linear(8, 8)

    def forward(self, x):
        draw = random.Random(self.seed)
        values = [self.first(x)]
        for layer in self.layers:
            a, b = values[-1] if draw.random() < 0.7 else draw.choice(values), draw.choice(values)
            kind = draw.randrange(7)
            if kind < 2:
                out = layer(a) if kind else draw.choice(OVERWRITING)(layer(a), inplace=True)
            elif kind < 4:
                out = draw.choice(ACTIVATIONS)(a) if kind == 2 else draw.choice(UNARY)(a)
            elif kind < 6:
                out = draw.choice(BINARY)(a, b)
            else:
                out = draw.choice(IN_PLACE)(a.clone() if draw.random() < 0.3 else a, b)
            values = [*values[-3:], out]
        return self.last(values[-1] + values[-2])


def run(model, x, autocast):
    model.zero_grad()
    torch.manual_seed(1)
    x = x.clone().requires_grad_()
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        out = model(x)
    out.to(x.dtype).tanh().square().sum().backward()
    return [out.detach(), x.grad, *(p.grad for p in model.parameters()), *model.buffers()]


@pytest.mark.parametrize('autocast', [False, True])
@pytest.mark.parametrize('seed', [*range(24), 434])
def test_gradients_are_the_same(seed, autocast):
    torch.manual_seed(seed)
    plain = RandomNetwork(seed).to(torch.float32 if autocast else torch.float64)
    forms = {level: copy.deepcopy(plain) for level in ('cheap', 'blocks')}
    x = torch.randn(8, 8, 8, 8, dtype=plain.last.weight.dtype)
    try:
        expected = run(plain, x, autocast)
    except RuntimeError as error:
        assert 'modified by an inplace operation' in str(error)
        return
    largest = max(value.abs().max() for value in expected if value is not None and value.numel())
    for level, model in forms.items():
        mmrev.save_memory(model, level, None if level == 'cheap' else [''])
        for a, b in zip(expected, run(model, x, autocast)):
            assert (a is None) == (b is None), level
            assert a is None or (a - b).abs().max() <= (1e-2 if autocast else 1e-9) * largest, level
