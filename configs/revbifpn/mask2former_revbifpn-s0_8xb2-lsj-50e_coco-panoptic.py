"""Mask2Former with RevBiFPN-S0 on COCO panoptic, by mmdet's recipe (8x2 images, 368,750 iterations).

It starts from random weights unless told otherwise:
--cfg-options model.backbone.init_cfg.checkpoint=mmrev://revbifpn-s0_3rdparty_in1k
"""
_base_ = ['mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py', './_detector.py']

model = dict(
    init_cfg=dict(_base_.detector.init_cfg, _delete_=True),
    backbone=_base_.detector.backbone,
    panoptic_head=dict(in_channels=[48, 64, 80, 160]))
