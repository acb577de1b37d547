"""Faster R-CNN with a ResNet-18 with InPlace-ABN and FPN on handwritten digits: trained in minutes, without a GPU."""
_base_ = '../_base_/digits_detector.py'

strides = [4, 8, 16, 32]  # of the pyramid

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmrev.IABNResNet',
        depth=18,
        out_indices=(0, 1, 2, 3),
        norm_cfg=dict(type='mmrev.InPlaceABN', activation='leaky_relu', activation_param=0.01)),
    neck=dict(in_channels=[64, 128, 256, 512], num_outs=len(strides)),
    rpn_head=dict(anchor_generator=dict(strides=strides)),
    roi_head=dict(bbox_roi_extractor=dict(featmap_strides=strides)))
