"""Weights that an earlier version of this package wrote: they load strictly and compute the same."""
from pathlib import Path

import pytest
import torch

from mmrev.registry import MODELS

BACKBONES = torch.load(Path(__file__).parents[1] / 'data/version_0_1_0.pth', weights_only=True)['backbones']


@pytest.mark.parametrize('name', BACKBONES)
def test_a_backbone_of_version_0_1_0_computes_what_it_computed_there(name):
    """The file was written by version 0.1.0: config, weights in half precision, the last level of the image."""
    written = BACKBONES[name]
    model = MODELS.build(written['cfg']).eval()
    model.load_state_dict(written['state_dict'])
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        output = model(x)[-1]
    torch.testing.assert_close(output, written['output'], rtol=1e-3, atol=1e-4 * float(output.abs().max()))
