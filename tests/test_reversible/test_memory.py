"""Live bytes: constant in depth, and released as soon as they are not needed."""
import pytest
import torch
from torch import nn

from mmrev.reversible import NewStream, ReversibleSequence, StreamPart, TwoStreamCoupling
from mmrev.testing import PeakMemory, bytes_per_sample, set_reversible

WIDTH = 16


def conv():
    half = WIDTH // 2
    return nn.Sequential(nn.Conv2d(half, half, 3, padding=1, bias=False), nn.BatchNorm2d(half), nn.Hardswish())


def network(depth, **kwargs):
    half = WIDTH // 2
    parts = (StreamPart(0, half, WIDTH), StreamPart(0, 0, half))
    return ReversibleSequence([TwoStreamCoupling(conv(), conv(), parts) for _ in range(depth)], **kwargs)


def train(module, batch, size=48):
    module.zero_grad()
    module(torch.randn(batch, WIDTH, size, size))[0].sum().backward()


def peak(depth, batch=2, size=48, **kwargs):
    module = network(depth, **kwargs)
    train(module, batch, 4)  # gradients exist from here on
    with PeakMemory() as memory:
        train(module, batch, size)
    return memory.peak


def test_peak_is_flat_in_depth():
    weights = sum(p.numel() * 4 for p in network(24).parameters())  # what depth 32 has more than depth 8
    stream = 2 * WIDTH * 48 * 48 * 4
    assert peak(32) - peak(8) <= weights + 0.01 * stream


def test_peak_of_plain_autograd_grows_with_depth():
    stream = 2 * WIDTH * 48 * 48 * 4
    assert peak(32, reversible=False) - peak(8, reversible=False) > 24 * stream


def test_cached_states_cost_one_state_each():
    stream = 2 * WIDTH * 48 * 48 * 4
    more = peak(16, cache_every=4) - peak(16)
    assert 2 * stream <= more <= 4 * stream  # kept before couplings 4, 8 and 12


def test_bytes_per_sample_do_not_depend_on_depth():
    shallow, deep = (network(depth) for depth in (4, 16))
    ours = [bytes_per_sample(lambda batch, m=m: train(m, batch)) for m in (shallow, deep)]
    assert abs(ours[1] - ours[0]) <= 0.01 * ours[0]
    assert bytes_per_sample(lambda batch: train(set_reversible(deep, False), batch)) > 5 * ours[1]


def test_nothing_stays_alive_after_the_backward():
    module = network(4)
    train(module, 2)
    with PeakMemory() as memory:
        train(module, 2)
        module.zero_grad()
        assert memory.current == 0


def test_inference_keeps_no_more_than_the_streams_and_one_function():
    module = network(16).eval()
    x = torch.randn(2, WIDTH, 48, 48)
    stream = x.numel() * 4
    with torch.no_grad(), PeakMemory() as memory:
        module(x)
    assert memory.peak <= 3 * stream


def test_a_stream_that_no_step_reads_is_not_kept():
    x = torch.randn(2, WIDTH, 48, 48, requires_grad=True)
    module = ReversibleSequence([NewStream(nn.Conv2d(WIDTH, WIDTH, 1), i, (0, )) for i in (1, 2)])
    with PeakMemory() as memory:
        loss = sum(y.sum() for y in module(x)[1:])
        assert memory.current < x.numel() * 4 / 100
        loss.backward()
    plain = torch.autograd.grad(sum(y.sum() for y in set_reversible(module, False)(x)[1:]), x)[0]
    torch.testing.assert_close(x.grad, plain)


@pytest.mark.parametrize('keep', ['state', 'graph'])
def test_steps_before_the_first_trained_one_keep_nothing(keep):
    def live(keep):
        module = network(8, keep=keep)
        module.couplings[:6].requires_grad_(False)
        train(module, 2)  # the first call observes
        with PeakMemory() as memory:
            loss = module(torch.randn(2, WIDTH, 48, 48))[0].sum()
            forward = memory.current
            loss.backward()
            return forward, memory.peak, memory.current

    expected = live(['undo'] * 12 + [keep] * 4)
    assert all(bytes_ <= most for bytes_, most in zip(live(keep), expected))
