"""PiT-S-max on ImageNet-1k by the recipe of DeiT: 4x256 images a step, 300 epochs."""
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py',
    'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmrev'], allow_failed_imports=False)

warmup_epochs = 5
drop_path_rate = 0.1
batch_size = 256
pretrained = None  # path of converted weights to start from; None begins from random ones

model = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(type='mmrev.PiT', arch='s', operation='max', out_indices=(2, ), drop_path_rate=drop_path_rate),
    neck=dict(type='mmpretrain.GlobalAveragePooling'),
    head=dict(
        type='mmpretrain.LinearClsHead',
        num_classes=1000,
        in_channels=576,
        loss=dict(type='mmpretrain.LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        topk=(1, 5)),
    train_cfg=dict(augments=[dict(type='mmpretrain.Mixup', alpha=0.8), dict(type='mmpretrain.CutMix', alpha=1.0)]),
    init_cfg=pretrained and dict(type='Pretrained', checkpoint=pretrained))

train_dataloader = dict(
    batch_size=batch_size, sampler=dict(_delete_=True, type='mmpretrain.RepeatAugSampler', shuffle=True))
val_dataloader = dict(batch_size=batch_size)
test_dataloader = val_dataloader

optim_wrapper = dict(paramwise_cfg=dict(_delete_=True, norm_decay_mult=0., bias_decay_mult=0., custom_keys=dict(
    pos_embed=dict(decay_mult=0.))))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=warmup_epochs, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=warmup_epochs),
]
