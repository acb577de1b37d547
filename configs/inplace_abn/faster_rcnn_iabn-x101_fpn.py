"""Faster R-CNN with a ResNeXt-101 with InPlace-ABN and FPN on COCO.

It starts from random weights unless told otherwise:
--cfg-options model.backbone.init_cfg.checkpoint=FILE
"""
_base_ = './faster_rcnn_iabn-r50_fpn.py'

model = dict(backbone=dict(type='mmrev.IABNResNeXt', depth=101))
