"""UPerNet on RevBiFPN-S3, ADE20K, by mmseg's recipe for Swin (8x2 images, 160k)."""
_base_ = [
    'mmseg::_base_/models/upernet_r50.py',
    '../_base_/segmentation/ade20k_adamw_160k.py',
    '../_base_/segmentation/pyramid_segmentor.py',
]

channels = [128, 160, 208, 416]
model = dict(
    **_base_.segmentor,
    decode_head=dict(in_channels=channels, num_classes=150),
    auxiliary_head=dict(in_channels=channels[2], num_classes=150))
model['backbone']['arch'] = 's3'
