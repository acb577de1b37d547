"""Mask R-CNN with R50-hybrid and FPN on COCO, mmdet's recipe (8x2 images, 1x)."""
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmrev'], allow_failed_imports=False)

pretrained = None  # path of converted ImageNet weights of the backbone; None trains from random weights

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmrev.PFResNet',
        depth=50,
        operation='hybrid',
        out_indices=(0, 1, 2, 3),
        frozen_stages=-1 if pretrained is None else 1,
        norm_eval=pretrained is not None,  # batches of two: keep good statistics where there are any
        init_cfg=pretrained and dict(type='Pretrained', checkpoint=pretrained, prefix='backbone.')),
    neck=dict(in_channels=[256, 512, 1024, 2048]))
