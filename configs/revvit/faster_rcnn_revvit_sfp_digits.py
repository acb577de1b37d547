"""Faster R-CNN with a small RevViT and a simple feature pyramid on handwritten digits: trained in minutes."""
_base_ = '../_base_/digits_detector.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmrev.RevViT',
        arch=dict(embed_dims=96, num_layers=4, num_heads=4, feedforward_channels=384),
        img_size=128,
        patch_size=8,
        out_type='featmap'),
    neck=dict(
        _delete_=True,
        type='mmrev.SimpleFeaturePyramid',
        in_channels=[192],
        out_channels=_base_.channels,
        scales=(2, 1, 0.5),
        norm_cfg=None,
        num_outs=len(_base_.strides)))

optim_wrapper = dict(optimizer=dict(lr=1e-3))
