"""Faster R-CNN with RevBiFPN-S5 on COCO, 24 epochs (2x).

It starts from random weights unless told otherwise:
--cfg-options model.backbone.init_cfg.checkpoint=mmrev://revbifpn-s5_3rdparty_in1k
"""
_base_ = './_faster_rcnn_revbifpn_2x.py'

model = dict(backbone=dict(arch='s5'), neck=dict(in_channels=[256, 336, 416, 848]))
