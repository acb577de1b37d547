"""R50-hybrid on ImageNet-1k as published: 4x256 images a step, 90 epochs, timm's ResNet augmentation."""
_base_ = [
    '../_base_/datasets/imagenet_bs256_jitter.py',
    '../_base_/schedules/sgd_step_90e.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmrev'], allow_failed_imports=False)

lr = 0.2  # per 1,024 images
warmup_epochs = 3

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

optim_wrapper = dict(optimizer=dict(lr=lr), paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0.))  # as timm does
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-5, by_epoch=True, begin=0, end=warmup_epochs, convert_to_iter_based=True),
    dict(type='StepLR', step_size=30, gamma=0.1, by_epoch=True),
]
auto_scale_lr = dict(base_batch_size=1024)
