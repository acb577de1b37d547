"""Faster R-CNN with a small Rev-Swin and FPN on handwritten digits: trained in minutes, without a GPU."""
_base_ = '../_base_/digits_detector.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmrev.RevSwin',
        arch=dict(embed_dims=32, depths=(2, 2, 2), num_heads=(2, 4, 8)),
        window_size=4,
        drop_path_rate=0.,
        out_indices=(0, 1, 2)),
    neck=dict(in_channels=[32, 64, 256]))

optim_wrapper = dict(optimizer=dict(lr=1e-3))
