"""Faster R-CNN with R50-max and FPN on handwritten digits: trained in minutes, without a GPU."""
_base_ = '../_base_/digits_detector.py'

strides = [4, 8, 16, 32]  # of the pyramid
channels = 128  # of the pyramid: max pooling knows no directions, so that its convolutions have to find the edges
max_epochs = 7  # max pooling learns later than convolutions
lr = 1e-3

model = dict(
    backbone=dict(_delete_=True, type='mmrev.PFResNet', depth=50, operation='max', out_indices=(0, 1, 2, 3)),
    neck=dict(in_channels=[256, 512, 1024, 2048], out_channels=channels, num_outs=len(strides)),
    rpn_head=dict(in_channels=channels, anchor_generator=dict(strides=strides)),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=channels, featmap_strides=strides),
        bbox_head=dict(in_channels=channels)))

train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(optimizer=dict(lr=lr))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', T_max=max_epochs, eta_min=lr / 100, by_epoch=True, begin=0, end=max_epochs,
         convert_to_iter_based=True),
]
