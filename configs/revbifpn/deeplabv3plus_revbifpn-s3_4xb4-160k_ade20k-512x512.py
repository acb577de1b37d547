"""DeepLabV3+ on RevBiFPN-S3, ADE20K: the pyramid of dilated convolutions on stride 32, the details of stride 4."""
_base_ = [
    'mmseg::_base_/models/deeplabv3plus_r50-d8.py',
    '../_base_/segmentation/ade20k_sgd_160k.py',
    '../_base_/segmentation/pyramid_segmentor.py',
]

channels = [128, 160, 208, 416]
model = dict(
    **_base_.segmentor,
    decode_head=dict(in_channels=channels[3], c1_in_channels=channels[0], dilations=(1, 3, 6, 9), num_classes=150),
    auxiliary_head=dict(in_channels=channels[2], num_classes=150))
model['backbone']['arch'] = 's3'
find_unused_parameters = True  # the heads leave out the level of stride 8
