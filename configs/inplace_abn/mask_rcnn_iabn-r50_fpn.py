"""Mask R-CNN with a ResNet-50 with InPlace-ABN and FPN on COCO, mmdet's recipe (8x2 images, 1x).

It starts from random weights unless told otherwise:
--cfg-options model.backbone.init_cfg.checkpoint=FILE
"""
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
    './_detector.py',
]

model = _base_.detector
