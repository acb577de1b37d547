"""The same without what DeiT adds to the data, nor any mixture of images."""
_base_ = './pit-s-max_4xb256_in1k.py'

model = dict(
    head=dict(loss=dict(_delete_=True, type='mmpretrain.CrossEntropyLoss', loss_weight=1.0)),
    train_cfg=dict(_delete_=True))
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmpretrain.RandomResizedCrop', scale=224, backend='pillow', interpolation='bicubic'),
    dict(type='mmpretrain.RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='mmpretrain.PackInputs'),
]
train_dataloader = dict(
    sampler=dict(_delete_=True, type='DefaultSampler', shuffle=True), dataset=dict(pipeline=train_pipeline))
