"""mmseg's DeepLabV3+ with ResNet-50, its batch norms and ReLUs replaced by InPlace-ABN with leaky ReLU."""
_base_ = [
    'mmseg::_base_/models/deeplabv3plus_r50-d8.py',
    '../_base_/segmentation/cityscapes_sgd_80k.py',
]

model = dict(pretrained=None, data_preprocessor=dict(size=(512, 1024)))
custom_hooks = [dict(type='mmrev.InPlaceABNHook', relu='leaky')]
