"""RevBiFPN-S3 on Cityscapes as mmseg trains HRNet: all levels, at the first one's size, and one 1x1 convolution."""
_base_ = [
    'mmseg::_base_/models/fcn_hr18.py',
    '../_base_/segmentation/cityscapes_sgd_80k.py',
    '../_base_/segmentation/pyramid_segmentor.py',
]

channels = [128, 160, 208, 416]
model = dict(**_base_.segmentor, decode_head=dict(in_channels=channels, channels=sum(channels)))
model['backbone']['arch'] = 's3'
model['data_preprocessor']['size'] = (512, 1024)
