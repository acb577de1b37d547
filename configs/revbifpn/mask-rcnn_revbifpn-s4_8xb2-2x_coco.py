"""Mask R-CNN with RevBiFPN-S4 on COCO, 24 epochs (2x).

It starts from random weights unless told otherwise:
--cfg-options model.backbone.init_cfg.checkpoint=mmrev://revbifpn-s4_3rdparty_in1k
"""
_base_ = './_mask_rcnn_revbifpn_2x.py'

model = dict(backbone=dict(arch='s4'), neck=dict(in_channels=[192, 256, 320, 640]))
