"""Cascade Mask R-CNN with RevBiFPN-S0 on COCO.

It starts from random weights unless told otherwise:
--cfg-options model.backbone.init_cfg.checkpoint=mmrev://revbifpn-s0_3rdparty_in1k
"""
_base_ = './_cascade_mask_rcnn_revbifpn.py'

model = dict(backbone=dict(arch='s0'), neck=dict(in_channels=[48, 64, 80, 160]))
