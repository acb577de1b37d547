"""Weights that an earlier version of this package wrote: they load strictly and compute the same."""
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import pytest
import torch

from mmrev.registry import MODELS
from support.golden import fill
from support.images import image

FILE = torch.load(Path(__file__).parents[1] / 'data/version_0_1_0.pth', weights_only=True)
BACKBONES, SHAPES = FILE['backbones'], FILE['shapes']


@pytest.mark.parametrize('name', BACKBONES)
def test_a_backbone_of_version_0_1_0_computes_what_it_computed_there(name):
    """The file was written by version 0.1.0: config, weights in half precision, the last level of the image."""
    written = BACKBONES[name]
    model = MODELS.build(written['cfg']).eval()
    model.load_state_dict(written['state_dict'])
    with torch.no_grad():
        output = model(image(1, 64, 96))[-1]
    torch.testing.assert_close(output, written['output'], rtol=1e-3, atol=1e-4 * float(output.abs().max()))


@pytest.mark.parametrize('name', SHAPES)
def test_a_state_dict_with_the_names_and_shapes_of_version_0_1_0_loads_strictly(name):
    """Of these models the file has the config, names and shapes; of a backbone also the last level of the image."""
    written = SHAPES[name]
    with ExitStack() as stack:
        for attribute, value in written['attributes'].items():  # of the class, which make it small
            stack.enter_context(mock.patch.object(MODELS.get(written['cfg']['type']), attribute, value))
        model = MODELS.build(written['cfg']).double().eval()
    model.load_state_dict(fill(written['shapes']))
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == written['shapes']
    if 'output' in written:
        with torch.no_grad():
            output = model(image(1, 64, 96).double())[-1]
        expected = written['output'].double()
        torch.testing.assert_close(output.flatten()[:len(expected)], expected, rtol=1e-3,
                                   atol=1e-4 * float(output.abs().max()))
        assert float(output.norm()) == pytest.approx(written['norm'], rel=1e-4)


def test_every_backbone_of_version_0_1_0_is_in_the_file():
    classes = {name.split(', ')[0] for name in (*BACKBONES, *SHAPES)}
    assert classes >= {'IABNDenseNet', 'IABNResNet', 'IABNResNeXt', 'PFResNet', 'PFViT', 'PiT', 'RevBiFPN', 'RevMViT',
                       'RevSwin', 'RevViT', 'WiderResNet'}
