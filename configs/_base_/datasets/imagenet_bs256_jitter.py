"""ImageNet-1k with random crops and color jitter, timm's for ResNet; mmpretrain's at 224 pixels in tests."""
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_pil_resize.py'

jitter = 0.4  # greatest relative change of brightness, contrast and saturation
batch_size = 256

data_preprocessor = dict(type='mmpretrain.ClsDataPreprocessor')  # children of `mmrev::` have its scope
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmpretrain.RandomResizedCrop', scale=224, backend='pillow'),
    dict(type='mmpretrain.RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='mmpretrain.ColorJitter', brightness=jitter, contrast=jitter, saturation=jitter),
    dict(type='mmpretrain.PackInputs'),
]
train_dataloader = dict(batch_size=batch_size, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=batch_size)
test_dataloader = val_dataloader
