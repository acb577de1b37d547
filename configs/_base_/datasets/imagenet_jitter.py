"""ImageNet-1k with random crops, color jitter and lighting noise; single crop of 224 pixels in tests, or ten (--tta).

The batch size is left to the configs.

Other tests: `--cfg-options tta_pipeline.1.scale=352 tta_pipeline.2.crop_size=320`, and for a single crop
`test_dataloader.dataset.pipeline.1.scale=320 test_dataloader.dataset.pipeline.2.crop_size=320`.
"""
_base_ = './imagenet.py'

scale = 256  # pixels of the shorter side in tests
crop = 224  # pixels
jitter = 0.4  # greatest relative change of brightness, contrast and saturation
batch_size = 32  # in tests

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmpretrain.RandomResizedCrop', scale=crop, backend='pillow', interpolation='bilinear'),
    dict(type='mmpretrain.RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='mmpretrain.ColorJitter', brightness=jitter, contrast=jitter, saturation=jitter),
    dict(type='mmrev.LightingNoise', std=0.1),
    dict(type='mmpretrain.PackInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmpretrain.ResizeEdge', scale=scale, edge='short', backend='pillow', interpolation='bilinear'),
    dict(type='mmpretrain.CenterCrop', crop_size=crop),
    dict(type='mmpretrain.PackInputs'),
]
tta_model = dict(type='mmrev.AverageClsLogitTTA')
tta_pipeline = [*test_pipeline[:2], dict(type='mmrev.TenCrop', crop_size=crop)]

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=batch_size, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
