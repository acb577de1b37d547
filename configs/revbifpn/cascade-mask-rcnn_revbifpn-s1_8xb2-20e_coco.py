"""Cascade Mask R-CNN with RevBiFPN-S1 on COCO.

It starts from random weights unless told otherwise:
--cfg-options model.backbone.init_cfg.checkpoint=mmrev://revbifpn-s1_3rdparty_in1k
"""
_base_ = './_cascade_mask_rcnn_revbifpn.py'

model = dict(backbone=dict(arch='s1'), neck=dict(in_channels=[64, 80, 96, 208]))
