"""What the benchmarks say about memory is true: the meta device counts as the CPU does, and every byte has its part."""
from functools import partial

import networks
import peak_parts
import pytest
import torch
from torch import nn

from mmrev.models.backbones import RevMViT, RevSwin, RevViT
from mmrev.testing import PeakMemory

SMALL = (64, 64)


def peak(network, device, batch):
    model = networks.build_on(device, network)
    with PeakMemory() as memory:
        networks.train_step(model, networks.images(network, batch, device))
    return memory.peak


@pytest.mark.slow
@pytest.mark.parametrize('network', [
    networks.classifier(0),
    networks.classifier(0, 'plain'),
    networks.backbone('s0', *SMALL, 'checkpoint'),
], ids=lambda network: network.name)
def test_the_meta_device_has_the_peak_of_the_cpu_to_the_byte(network):
    network = network._replace(shape=SMALL)
    assert peak(network, 'meta', 2) == peak(network, 'cpu', 2)


NARROW = {  # few channels, so that the activations decide where the peak is
    'RevViT': partial(RevViT, dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=32), 64, 4),
    'RevSwin': partial(RevSwin, dict(embed_dims=8, depths=(1, 2), num_heads=(1, 2))),
    'RevMViT': partial(RevMViT, dict(embed_dims=8, num_layers=5, num_heads=1, downscale_indices=(2, ))),
}


@pytest.mark.slow
@pytest.mark.parametrize('mode', networks.MODES)
@pytest.mark.parametrize('name', NARROW)
def test_an_image_takes_the_same_of_a_transformer_on_the_meta_device_and_on_the_cpu(name, mode):
    network = networks.Network(name, lambda: networks.in_mode(NARROW[name](), mode), SMALL)
    meta, cpu = (networks.bytes_per_image(network, device, (8, 16)) for device in ('meta', 'cpu'))
    assert meta == cpu


@pytest.mark.parametrize('arch', ['s0', *networks.TRANSFORMERS])
def test_every_network_has_a_name(arch):
    assert networks.title(arch).rpartition('-')[2].lower() == arch.rpartition('-')[2]


def gradients(arch, mode):
    model = networks.build_backbone(arch, mode).double()
    torch.manual_seed(1)
    networks.total(tuple(y.square() for y in model(torch.randn(1, 3, *SMALL, dtype=torch.float64)))).backward()
    return [p.grad for p in model.parameters()]


@pytest.mark.parametrize('arch', ['revvit-s', 'revswin-t', 'revmvit-t'])
def test_checkpointing_computes_what_plain_autograd_computes(arch):
    assert all(map(torch.equal, gradients(arch, 'plain'), gradients(arch, 'checkpoint')))


@pytest.mark.parametrize('arch', ['s0', 'revvit-s'])
def test_the_bare_functions_compute_what_plain_autograd_computes(arch):
    for plain, bare in zip(gradients(arch, 'plain'), gradients(arch, 'bare')):
        torch.testing.assert_close(bare, plain)


def test_dropout_and_drop_path_count_the_same_on_the_meta_device():
    arch = dict(channels=(48, 16), num_extra_stages=1, drop_path_rate=0.5)
    network = networks.Network('tiny', lambda: networks.RevBiFPN(arch, out_indices=(0, 1)), SMALL)
    assert peak(network, 'meta', 3) == peak(network, 'cpu', 3)


THREE_SCALES = networks.Network('small', lambda: networks.RevBiFPN(
    dict(channels=(48, 64, 80), num_extra_stages=1), out_indices=(0, 1, 2)), SMALL)


@pytest.fixture(scope='module')
def parts():
    """The parts of the peak of a small RevBiFPN, for two images."""
    return peak_parts.find_parts(THREE_SCALES, batch=2)


@pytest.mark.slow
def test_the_parts_of_the_peak_are_all_of_it(parts):
    assert sum(parts.values()) == peak(THREE_SCALES, 'meta', 2)


def test_the_parts_of_the_peak_are_named():

    def build():
        return nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.Sigmoid(), nn.Hardswish())

    parts = peak_parts.find_parts(networks.Network('tiny', build, (8, 8)), batch=2)
    size = 2 * 4 * 8 * 8 * 4
    found = {part[:3]: bytes_ for part, bytes_ in parts.items() if part.shape == (2, 4, 8, 8)}
    assert found == {  # the convolution's output is released: autograd keeps those of the sigmoid and the hardswish
        ('made in forward', '1', 'sigmoid'): size,
        ('made by autograd in backward', '2', 'hardswish_backward'): size,
        ('made by autograd in backward', '1', 'sigmoid_backward'): size,
    }


@pytest.mark.slow
def test_the_streams_are_found_among_the_parts(parts):
    streams = {(part.kind, part.operator) for part in parts if part.kind.endswith('of a stream')}
    assert {('value of a stream', 'stream 0'), ('gradient of a stream', 'stream 0')} <= streams
    assert all(part.module == 'stages' for part in parts if part.kind.endswith('of a stream'))
    assert torch.Size((2, 48, 16, 16)) in {part.shape for part in parts if part.operator == 'stream 0'}
