"""What the segmentors share: RevBiFPN, whose levels go to the head as they are: they have been fused already."""
_base_ = './segmentor.py'

segmentor = dict(
    data_preprocessor=_base_.padded,
    backbone=dict(type='mmrev.RevBiFPN', arch='s0', out_indices=(0, 1, 2, 3)))
