"""Cascade Mask R-CNN with RevBiFPN-S2 on COCO.

It starts from random weights unless told otherwise:
--cfg-options model.backbone.init_cfg.checkpoint=mmrev://revbifpn-s2_3rdparty_in1k
"""
_base_ = './_cascade_mask_rcnn_revbifpn.py'

model = dict(backbone=dict(arch='s2'), neck=dict(in_channels=[96, 128, 160, 320]))
