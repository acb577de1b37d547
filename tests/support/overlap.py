"""Networks that are differentiated with overlapped steps and without."""
import torch
from torch import nn

from mmrev.reversible import ReversibleSequence, TwoStreamCoupling
from support.networks import NETWORKS


def build(name, **kwargs):
    torch.manual_seed(3)
    return NETWORKS[name](**kwargs)


def gradients(module, streams, overlap, amp=False):
    module.overlap = overlap
    torch.manual_seed(11)
    streams = [x.detach().clone().requires_grad_() for x in streams]
    module.zero_grad()
    with torch.autocast('cpu', torch.bfloat16, enabled=amp):
        outputs = module(*streams)
    sum((x * x.detach().cos()).sum() for x in outputs).backward()
    found = {**{n: p.grad for n, p in module.named_parameters()}, 'random state afterwards': torch.get_rng_state()}
    return {**found, **{f'input {i}': x.grad for i, x in enumerate(streams)}}


def assert_same_bits(ours, expected):
    for name, x in expected.items():
        assert (x is None and ours[name] is None) or torch.equal(ours[name], x), name


def dropping(depth, width=16):
    def f():
        return nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.Dropout(0.3),
                             nn.Hardswish())

    torch.manual_seed(0)
    return ReversibleSequence([TwoStreamCoupling(f(), f()) for _ in range(depth)])


class Energy(nn.Module):
    """A function that is the gradient of an overlapped sequence, which its modules do not show."""

    def __init__(self, inner):
        super().__init__()
        self.inner = [inner]

    def forward(self, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            found, = torch.autograd.grad(sum(y.square().sum() for y in self.inner[0](x, x)), x)
        return found
