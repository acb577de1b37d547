"""On an accelerator, overlapped steps use two side streams; no operator reads memory that another may overwrite."""
from functools import partial

import pytest
import torch
from torch import nn

import mmrev.reversible.gradients as gradients_of_a_step
import mmrev.reversible.overlap as overlapping
import mmrev.reversible.record as recording
from mmrev import compat
from mmrev.reversible import ReversibleSequence, TwoStreamCoupling
from mmrev.reversible.streams import StreamBuffers
from support.fake_streams import Accelerator, Sanitizer
from support.networks import NETWORKS, inputs
from support.overlap import Energy, assert_same_bits, build, dropping, gradients


@pytest.fixture
def accelerator(monkeypatch):
    """The CPU's tensors are treated as those of a device with streams."""
    fake = Accelerator()
    monkeypatch.setattr(overlapping, 'AheadOnThread', partial(overlapping.AheadOnStreams, torch.device('cpu')))
    monkeypatch.setattr(overlapping, '_sides', {})
    monkeypatch.setattr(overlapping, 'compat', _With(compat, get_device_module=lambda device: fake))
    monkeypatch.setattr(gradients_of_a_step, 'compat', _With(compat, differentiate=fake.differentiate))
    monkeypatch.setattr(recording, 'compat', _With(compat, output_edge=fake.output_edge))
    return fake


class _With:
    """A module with some other attributes."""

    def __init__(self, module, **attributes):
        self.__dict__.update(vars(module), **attributes)


def sanitized(accelerator, module, streams):
    with Sanitizer(accelerator) as sanitizer:
        found = gradients(module, streams, True)
        accelerator.main.clock[accelerator.main] += 1
        sanitizer._reuse(accelerator.main, 'the end')
    return found, sanitizer


@pytest.mark.parametrize('keep', [None, ['undo', 'graph', 'state', 'undo', 'graph', 'undo', 'undo', 'state']])
@pytest.mark.parametrize('name', NETWORKS)
def test_two_side_streams_are_used_safely(accelerator, name, keep):
    module, streams = build(name), inputs(name)
    if keep:
        module.keep = lambda step, entries=iter(keep * 20): next(entries)
    expected = gradients(module, streams, False)
    found, sanitizer = sanitized(accelerator, module, streams)
    assert_same_bits(found, expected)
    assert sanitizer.unordered == [] and sanitizer.unsafe_releases == []
    assert len(sanitizer.streams) == 3


def test_a_backward_that_stops_early_waits_for_what_runs_ahead(accelerator):
    module = dropping(6)
    module.overlap = True
    x = torch.randn(2, 16, 8, 8)
    with Sanitizer(accelerator) as sanitizer:
        outputs = module(x, x)
        torch.autograd.backward(sum(y.sum() for y in outputs), inputs=list(module.couplings[-1].parameters()))
        del outputs
        torch.zeros(1)
    assert sanitizer.unordered == [] and sanitizer.unsafe_releases == []
    assert all(accelerator.main.follows(s.clock) for s in sanitizer.streams)


def test_the_sanitizer_notices_a_stream_that_is_dropped_while_it_is_read(accelerator, monkeypatch):
    monkeypatch.setattr(StreamBuffers, 'replaced', property(lambda self: None, lambda self, value: None))
    _, sanitizer = sanitized(accelerator, dropping(3), [torch.randn(2, 16, 8, 8) for _ in range(2)])
    assert sanitizer.unsafe_releases


def test_every_backward_uses_the_same_two_side_streams(accelerator):
    module, streams = dropping(4), [torch.randn(2, 16, 8, 8) for _ in range(2)]
    for _ in range(3):
        gradients(module, streams, True)
    assert accelerator.made == 2


def test_a_backward_within_one_that_runs_ahead_stays_on_its_stream(accelerator):
    module = ReversibleSequence([overlapped_within() for _ in range(3)], overlap=True)
    streams = [torch.randn(1, 16, 4, 4) for _ in range(2)]
    expected = gradients(module, streams, False)
    found, sanitizer = sanitized(accelerator, module, streams)
    assert_same_bits(found, expected)
    assert sanitizer.unordered == [] and sanitizer.unsafe_releases == []


def overlapped_within():
    inner = dropping(3).eval()
    inner.overlap = True
    return TwoStreamCoupling(nn.Sequential(nn.Conv2d(16, 16, 1), Energy(inner)), nn.Conv2d(16, 16, 1))
