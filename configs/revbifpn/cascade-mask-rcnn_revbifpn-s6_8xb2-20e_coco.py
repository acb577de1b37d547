"""Cascade Mask R-CNN with RevBiFPN-S6 on COCO.

It starts from random weights unless told otherwise:
--cfg-options model.backbone.init_cfg.checkpoint=mmrev://revbifpn-s6_3rdparty_in1k
"""
_base_ = './_cascade_mask_rcnn_revbifpn.py'

model = dict(backbone=dict(arch='s6'), neck=dict(in_channels=[320, 416, 528, 1056]))
