"""Faster R-CNN with R50-max and FPN on handwritten digits: trained in minutes, without a GPU."""
_base_ = '../_base_/digits_detector.py'

strides = [4, 8, 16, 32]  # of the pyramid
bins = 14  # along a side of a box: max pooling knows no directions and leaves it to the head to find edges
max_epochs = 8  # max pooling learns later than convolutions
lr = 2e-3

model = dict(
    backbone=dict(_delete_=True, type='mmrev.PFResNet', depth=50, operation='max', out_indices=(0, 1, 2, 3)),
    neck=dict(in_channels=[256, 512, 1024, 2048], num_outs=len(strides)),
    rpn_head=dict(anchor_generator=dict(strides=strides)),
    roi_head=dict(
        bbox_roi_extractor=dict(featmap_strides=strides, roi_layer=dict(output_size=bins)),
        bbox_head=dict(roi_feat_size=bins, loss_bbox=dict(loss_weight=2.))))

train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', T_max=max_epochs, eta_min=lr / 100, by_epoch=True, begin=0, end=max_epochs,
         convert_to_iter_based=True),
]
