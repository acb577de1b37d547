"""What all sizes share: Mask R-CNN with HRFPN on COCO, the recipe of HRNet (8x2 images, 1x) that the paper uses."""
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmrev'], allow_failed_imports=False)

pretrained = None  # path or URL of ImageNet weights for the backbone; None trains from random weights
channels = 256  # of the feature pyramid and the heads

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmrev.RevBiFPN',
        arch='s0',
        out_indices=(0, 1, 2, 3),
        norm_eval=pretrained is not None,  # batches of two: keep good statistics where there are any
        init_cfg=pretrained and dict(type='Pretrained', checkpoint=pretrained, prefix='backbone.')),
    neck=dict(_delete_=True, type='mmrev.HRFPN', in_channels=[48, 64, 80, 160], out_channels=channels))
