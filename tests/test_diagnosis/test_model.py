"""What is wrong with a model: two lines, status 2, nothing written."""
import pytest
from mmengine.config import Config
from mmengine.model import BaseModel
from torch import nn

from mmrev.diagnosis.model import channels
from mmrev.diagnosis.plan import Plan
from support.commands import option

MISTAKES = {
    'an unknown backbone': (option('model.backbone.type=mmrev.RevBiFPM'), 'no model `mmrev.RevBiFPM`',
                            '`mmrev.RevBiFPN`'),
    'an unknown arch': (option('model.backbone.arch=s9'), 's9', 'good.py'),
    'an unknown argument of the backbone': (option('model.backbone.archh=s1'), 'archh', 'good.py'),
    'a text for a number of the model': (option('model.neck.out_channels=abc'), '`model.neck.out_channels` is the '
                                         'text `abc`; FPN takes int', 'model.neck.out_channels=VALUE'),
    'a decay of norms that InPlaceABN is not reached by': (
        [*option('model.backbone.norm_cfg.type=mmrev.ABN'), 'model.backbone.act_cfg=None',
         'optim_wrapper.paramwise_cfg.norm_decay_mult=0'],
        'has no effect on the InPlaceABN', 'optim_wrapper.constructor=mmrev.OptimWrapperConstructor'),
    'a model without this part': (option('model.nekc.out_channels=3'), "'nekc'", 'model.KEY=VALUE'),
    'an unknown norm': (option('model.backbone.norm_cfg.type=BNN'), '`BNN` (model.backbone.norm_cfg.type)', '`BN`'),
    'no type': (option('model.neck.type='), '(model.neck.type)', 'good.py'),
    'a backbone that the neck does not fit': (option('model.backbone.arch=s3'), 'model.neck.lateral_convs.0.conv takes '
                                              '48 channels and gets 128; model.backbone gives [128, 160, 208, 416]',
                                              'model.neck'),
    'a backbone for other images': (option('model.backbone.in_channels=1'), 'takes images of 1 channels',
                                    'model.data_preprocessor.mean'),
    'fewer levels than the neck takes': (option('model.backbone.out_indices=(0,1)'), 'model.neck takes 4 levels',
                                         'model.neck.in_channels'),
    'a head that the neck does not fit': (option('model.rpn_head.in_channels=17'), 'rpn_conv takes 17 channels and '
                                          'gets 16', 'model.rpn_head'),
    'RoIs that the neck does not fit': (option('model.roi_head.bbox_roi_extractor.out_channels=17'), 'gets 16',
                                        'model.roi_head'),
}


@pytest.mark.parametrize('mistake', MISTAKES)
def test_it_is_named_with_a_way_out_and_nothing_is_written(mistake, refused):
    refused(*MISTAKES[mistake])


class Digits(BaseModel):
    """A classifier whose last layer takes images of one size, or none."""

    def __init__(self, inputs):
        super().__init__()
        self.backbone = nn.Conv2d(3, 4, 1)
        self.head = nn.Linear(inputs, 2)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return self.head(nn.functional.avg_pool2d(self.backbone(inputs), 32).flatten(1))


class Pooled(Digits):
    """The same for images of any size."""

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return self.head(self.backbone(inputs).mean((2, 3)))


def found(model):
    return [problem.what for problem in channels(Plan(Config(), ('train', ), model))]


def test_a_layer_that_fits_images_of_another_size_only_is_no_mistake():
    assert found(Digits(4 * 7 * 7)) == []


def test_a_layer_that_fits_no_image_is_named():
    assert found(Pooled(4)) == []
    assert found(Pooled(5)) == ['model.head takes 5 channels and gets 4; model.backbone gives [4]']
