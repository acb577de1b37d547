"""Small reversible networks that every test of the engine runs through."""
import torch
from torch import nn

from mmrev.reversible import AdditiveStep, NewStream, ReversibleSequence, RevSilo, StreamPart, TwoStreamCoupling


class DropPath(nn.Module):
    """Zeroes a sample's residual with probability 0.3, in training."""

    def forward(self, x):
        if not self.training:
            return x * 1
        return x * torch.rand(len(x), *[1] * (x.ndim - 1), dtype=x.dtype).gt(0.3) / 0.7


class CallCounter(nn.Module):
    """A custom buffer that every forward changes."""

    def __init__(self):
        super().__init__()
        self.register_buffer('calls', torch.zeros((), dtype=torch.long))

    def forward(self, x):
        self.calls = self.calls + 1  # rebinds
        self.calls += 1  # and changes in place
        return x * 2


def linear(width: int = 6) -> nn.Module:
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0.2), nn.Linear(2 * width, width),
        DropPath())


def mlp(width=6):
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


def conv(channels: int, out_channels: int = None, stride: int = 1, drop: bool = True) -> nn.Module:
    out_channels = out_channels or channels
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride, 1, groups=channels), nn.BatchNorm2d(channels), nn.Hardswish(),
        CallCounter(), nn.Conv2d(channels, out_channels, 1), nn.BatchNorm2d(out_channels),
        *([nn.Dropout(0.2), DropPath()] if drop else []))


def network(*functions):
    """Couplings of functions that are built here, by the same seed each time."""
    torch.manual_seed(0)
    functions = [f() for f in functions or [mlp] * 4]
    pairs = zip(functions[::2], functions[1::2])
    return ReversibleSequence([TwoStreamCoupling(f, g) for f, g in pairs]).double()


def two_stream(depth: int = 3, f=linear) -> ReversibleSequence:
    """Like RevViT: two streams of ``(B, N, 6)``."""
    return ReversibleSequence([TwoStreamCoupling(f(), f()) for _ in range(depth)]).double()


def halves(depth: int = 3, channels: int = 8) -> ReversibleSequence:
    """Like RevNet: one stream of ``(B, 8, H, W)``, coupled by halves."""
    half = channels // 2
    parts = (StreamPart(0, half, channels), StreamPart(0, 0, half))
    return ReversibleSequence([TwoStreamCoupling(conv(half), conv(half), parts) for _ in range(depth)]).double()


def silo(channels, num_inputs: int) -> RevSilo:
    """A level begins without drop path: where all samples are dropped it would be nothing but rounding."""
    levels = range(len(channels))
    return RevSilo({(i, j): conv(channels[i], channels[j], 2**(j - i), drop=j < num_inputs)
                    for i in levels for j in levels if i < j},
                   {(i, j): nn.Sequential(conv(channels[i], channels[j]), nn.Upsample(scale_factor=2**(i - j)))
                    for i in levels for j in levels if i > j}, num_inputs)


def pyramid() -> ReversibleSequence:
    """Like RevBiFPN: one level of ``(B, 8, H, W)`` that grows to three."""
    parts = (StreamPart(0, 4, 8), StreamPart(0, 0, 4))
    return ReversibleSequence([
        TwoStreamCoupling(conv(4), conv(4), parts),
        silo([8, 4], num_inputs=1),
        TwoStreamCoupling(conv(2), conv(2), (StreamPart(1, 2, 4), StreamPart(1, 0, 2))),
        silo([8, 4, 6], num_inputs=2),
        silo([8, 4, 6], num_inputs=3),
    ]).double()


def new_stream() -> ReversibleSequence:
    """A stream that starts late and is used afterwards."""
    return ReversibleSequence([NewStream(linear(), 1, (0, )), TwoStreamCoupling(linear(), linear())]).double()


class Fusion(nn.Module):
    """``x[2] += f(x[1])``; nothing reads the third stream."""

    def __init__(self):
        super().__init__()
        self.f = linear()

    def steps(self):
        return [AdditiveStep(self.f, 2, (1, ))]


def fan_out() -> ReversibleSequence:
    """Like RevBiFPN's neck and head: streams that begin or are added to, and that no later step reads."""
    return ReversibleSequence([NewStream(linear(), 1, (0, )), NewStream(linear(), 2, (0, )), Fusion()]).double()


def inputs(network: str, requires_grad: bool = True, batch: int = 3):
    """Float64 inputs for the network of that name."""
    generator = torch.Generator().manual_seed(7)

    def random(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_(requires_grad)

    if network == 'two_stream':
        return random(batch, 5, 6), random(batch, 5, 6)
    if network in ('new_stream', 'fan_out'):
        return (random(batch, 5, 6), )
    return (random(batch, 8, 8, 8), )


def loss_of(outputs):
    """A loss whose gradient differs in every element."""
    return sum((x * torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view_as(x)).sum() for x in outputs)


NETWORKS = dict(two_stream=two_stream, halves=halves, pyramid=pyramid, new_stream=new_stream, fan_out=fan_out)
