"""Common to all sizes: Faster R-CNN with HRFPN on COCO, the recipe of HRNet (8x2 images, 1x) that the paper uses.

All start from random weights unless told otherwise:
--cfg-options model.backbone.init_cfg.checkpoint=FILE
"""
_base_ = [
    'mmdet::_base_/models/faster-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_detection.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
    './_detector.py',
]

model = _base_.detector
