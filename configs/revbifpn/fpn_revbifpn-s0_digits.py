"""RevBiFPN-S0 on handwritten digits as semantic segmentation: minutes, without a GPU and without a download."""
_base_ = '../_base_/digits_segmentor.py'

model = dict(
    backbone=dict(type='mmrev.RevBiFPN', arch='s0', out_indices=(0, 1, 2, 3)),
    decode_head=dict(in_channels=[48, 64, 80, 160]))
