"""RevBiFPN-S0 Faster R-CNN on handwritten digits: a whole training in minutes, without a GPU and without a download."""
_base_ = '../_base_/digits_detector.py'

model = dict(
    backbone=dict(_delete_=True, type='mmrev.RevBiFPN', arch='s0', out_indices=(0, 1, 2, 3)),
    neck=dict(
        _delete_=True,
        type='mmrev.HRFPN',
        in_channels=[48, 64, 80, 160],
        out_channels=_base_.channels,
        num_outs=len(_base_.strides)))
