"""Faster R-CNN with R50-max and FPN on handwritten digits: trained in minutes, without a GPU."""
_base_ = '../_base_/digits_detector.py'

strides = [4, 8, 16, 32]  # of the pyramid

model = dict(
    backbone=dict(_delete_=True, type='mmrev.PFResNet', depth=50, operation='max', out_indices=(0, 1, 2, 3)),
    neck=dict(in_channels=[256, 512, 1024, 2048], num_outs=len(strides)),
    rpn_head=dict(anchor_generator=dict(strides=strides)),
    roi_head=dict(bbox_roi_extractor=dict(featmap_strides=strides)))
