"""mmseg's DeepLabV3+ with ResNet-50, its batch norms and ReLUs replaced by InPlace-ABN with leaky ReLU.

It starts from random weights unless told otherwise; as in mmseg:
--cfg-options model.pretrained=open-mmlab://resnet50_v1c
"""
_base_ = [
    'mmseg::_base_/models/deeplabv3plus_r50-d8.py',
    '../_base_/segmentation/cityscapes_sgd_80k.py',
]

model = dict(
    pretrained=None,  # of the backbone
    init_cfg=dict(type='mmrev.Pretrained', checkpoint=None),  # of the whole segmentor
    data_preprocessor=dict(size=(512, 1024)))
custom_hooks = [dict(type='mmrev.InPlaceABNHook', relu='leaky')]
