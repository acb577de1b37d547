"""Digits classifiers that learn slowly from few images: those at their own size, without a resize, and for longer.

The data: `python tools/dataset_converters/digits.py --task classification`.
"""
_base_ = './digits_classifier.py'

resolution = 32  # pixels
shift = 3  # greatest random shift, in pixels
max_epochs = 9  # each of eight times the training images
lr = 3e-3

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmpretrain.RandomCrop', crop_size=resolution, padding=shift, padding_mode='edge'),
    dict(type='mmpretrain.PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmpretrain.PackInputs'),
]
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

model = dict(backbone=dict(out_type='avg_featmap'), neck=None)

train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(optimizer=dict(lr=lr, weight_decay=0.05))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', T_max=max_epochs, eta_min=lr / 100, by_epoch=True, begin=0, end=max_epochs,
         convert_to_iter_based=True),
]
