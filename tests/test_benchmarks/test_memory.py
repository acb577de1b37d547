"""What the benchmarks say about memory is true: the meta device counts as the CPU does, and every byte has its part."""
import networks
import peak_parts
import pytest
import torch
from torch import nn

from mmrev.testing import PeakMemory

SMALL = (64, 64)


def peak(network, device, batch):
    model = networks.build_on(device, network)
    with PeakMemory() as memory:
        networks.train_step(model, networks.images(network, batch, device))
    return memory.peak


@pytest.mark.parametrize('network', [
    networks.classifier(0),
    networks.classifier(0, 'plain'),
    networks.backbone('s0', *SMALL, 'checkpoint'),
], ids=lambda network: network.name)
def test_the_meta_device_has_the_peak_of_the_cpu_to_the_byte(network):
    network = network._replace(shape=SMALL)
    assert peak(network, 'meta', 2) == peak(network, 'cpu', 2)


def test_dropout_and_drop_path_count_the_same_on_the_meta_device():
    arch = dict(channels=(48, 16), num_extra_stages=1, drop_path_rate=0.5)
    network = networks.Network('tiny', lambda: networks.RevBiFPN(arch, out_indices=(0, 1)), SMALL)
    assert peak(network, 'meta', 3) == peak(network, 'cpu', 3)


def test_the_parts_of_the_peak_are_all_of_it():
    network = networks.backbone('s0', *SMALL)
    parts = peak_parts.find_parts(network, batch=5)
    assert sum(parts.values()) == peak(network, 'meta', 5)


def test_the_parts_of_the_peak_are_named():

    def build():
        return nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.Sigmoid(), nn.Hardswish())

    parts = peak_parts.find_parts(networks.Network('tiny', build, (8, 8)), batch=2)
    size = 2 * 4 * 8 * 8 * 4
    found = {part[:3]: bytes_ for part, bytes_ in parts.items() if part.shape == (2, 4, 8, 8)}
    assert found == {  # the convolution's output is let go: autograd keeps what the sigmoid and the hardswish gave
        ('made in forward', '1', 'sigmoid'): size,
        ('made by autograd in backward', '2', 'hardswish_backward'): size,
        ('made by autograd in backward', '1', 'sigmoid_backward'): size,
    }


def test_the_streams_are_found_among_the_parts():
    network = networks.backbone('s0', *SMALL)
    parts = peak_parts.find_parts(network, batch=2)
    streams = {(part.kind, part.operator) for part in parts if part.kind.endswith('of a stream')}
    assert {('value of a stream', 'stream 0'), ('gradient of a stream', 'stream 0')} <= streams
    assert all(part.module == 'stages' for part in parts if part.kind.endswith('of a stream'))
    assert torch.Size((2, 48, 16, 16)) in {part.shape for part in parts if part.operator == 'stream 0'}
