"""Mask R-CNN with R50-max and FPN on COCO.

It starts from random weights unless told otherwise:
--cfg-options model.backbone.init_cfg.checkpoint=FILE
"""
_base_ = './mask_rcnn_pf-r50-hybrid_fpn.py'

model = dict(backbone=dict(operation='max'))
