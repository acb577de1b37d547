"""R50-hybrid on ImageNet-1k as published: 4x256 images a step, 90 epochs, timm's ResNet augmentation."""
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs64_pil_resize.py',
    '../_base_/schedules/sgd_step_90e.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmrev'], allow_failed_imports=False)

lr = 0.2  # per 1,024 images
warmup_epochs = 3
jitter = 0.4  # greatest relative change of brightness, contrast and saturation
batch_size = 256

data_preprocessor = dict(type='mmpretrain.ClsDataPreprocessor')  # children of `mmrev::` have its scope
model = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(
        type='mmrev.PFResNet',
        depth=50,
        operation='hybrid',
        out_indices=(3, ),
        init_cfg=dict(type='mmrev.Pretrained', checkpoint=None, prefix='backbone.')),
    neck=dict(type='mmpretrain.GlobalAveragePooling'),
    head=dict(
        type='mmpretrain.LinearClsHead',
        num_classes=1000,
        in_channels=2048,
        loss=dict(type='mmpretrain.CrossEntropyLoss', loss_weight=1.0),
        topk=(1, 5)),
    init_cfg=dict(type='mmrev.Pretrained', checkpoint=None))  # of the whole classifier

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

optim_wrapper = dict(optimizer=dict(lr=lr), paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0.))  # as timm does
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-5, by_epoch=True, begin=0, end=warmup_epochs, convert_to_iter_based=True),
    dict(type='StepLR', step_size=30, gamma=0.1, by_epoch=True),
]
auto_scale_lr = dict(base_batch_size=1024)
