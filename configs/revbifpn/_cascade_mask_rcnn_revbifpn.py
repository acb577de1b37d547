"""Common to all sizes: Cascade Mask R-CNN with HRFPN on COCO, the recipe of HRNet (8x2 images, 20 epochs).

All start from random weights unless told otherwise:
--cfg-options model.backbone.init_cfg.checkpoint=FILE
"""
_base_ = [
    'mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/schedules/schedule_20e.py',
    'mmdet::_base_/default_runtime.py',
    './_detector.py',
]

model = _base_.detector
