"""Numbers and words of a model that must agree."""
import pytest
from torch import nn

from mmrev.analysis.agreement import disagreements

ResNet = pytest.importorskip('mmdet.models').ResNet


@pytest.mark.parametrize('style, found', [('pytorch', []), ('caffe', []), ('pytoch', ['model.backbone.style'])])
def test_a_style_that_resnet_would_take_for_another_is_named(style, found):
    model = nn.Module()
    model.backbone = ResNet(18, style=style)
    assert [path for _, path in disagreements(model, {}, 64)] == found
