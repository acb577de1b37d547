"""Panoptic FPN with RevBiFPN-S0 on COCO, by mmdet's recipe (8x2 images, 1x).

It starts from random weights unless told otherwise:
--cfg-options model.backbone.init_cfg.checkpoint=mmrev://revbifpn-s0_3rdparty_in1k
"""
_base_ = ['mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py', './_detector.py']

model = _base_.detector
