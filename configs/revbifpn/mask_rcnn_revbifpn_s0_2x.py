"""Mask R-CNN with RevBiFPN-S0 on COCO, HRNet's 2x: 24 epochs.

It starts from random weights unless told otherwise:
--cfg-options model.backbone.init_cfg.checkpoint=mmrev://revbifpn-s0_3rdparty_in1k
"""
_base_ = './_mask_rcnn_revbifpn.py'

max_epochs = 24

model = dict(backbone=dict(arch='s0'), neck=dict(in_channels=[48, 64, 80, 160]))
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', begin=0, end=max_epochs, by_epoch=True, milestones=[16, 22], gamma=0.1)
]
