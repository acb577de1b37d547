"""What the segmentors share: UPerNet on Rev-Swin-T."""
_base_ = '../_base_/segmentation/segmentor.py'

channels = [96, 192, 384, 1536]
segmentor = dict(
    data_preprocessor=_base_.padded,
    backbone=dict(type='mmrev.RevSwin', arch='tiny', out_indices=(0, 1, 2, 3), drop_path_rate=0.3),
    decode_head=dict(in_channels=channels),
    auxiliary_head=dict(in_channels=channels[2]))
