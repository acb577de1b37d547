"""Common to all sizes: Mask R-CNN with HRFPN on COCO, the recipe of HRNet (8x2 images) for 24 epochs (2x).

All start from random weights unless told otherwise:
--cfg-options model.backbone.init_cfg.checkpoint=FILE
"""
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/schedules/schedule_2x.py',
    'mmdet::_base_/default_runtime.py',
    './_detector.py',
]

model = _base_.detector
