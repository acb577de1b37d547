"""The recipe of DeiT on ImageNet-1k: 4x256 images a step, 300 epochs. Backbone and channels are left to the configs."""
_base_ = [
    './datasets/imagenet_bs256_repeat_aug.py',
    './schedules/adamw_cosine_300e.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmrev'], allow_failed_imports=False)

drop_path_rate = 0.1

model = dict(
    type='mmpretrain.ImageClassifier',
    neck=dict(type='mmpretrain.GlobalAveragePooling'),
    head=dict(
        type='mmpretrain.LinearClsHead',
        num_classes=1000,
        loss=dict(type='mmpretrain.LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        topk=(1, 5)),
    train_cfg=dict(augments=[dict(type='mmpretrain.Mixup', alpha=0.8), dict(type='mmpretrain.CutMix', alpha=1.0)]),
    init_cfg=dict(type='mmrev.Pretrained', checkpoint=None))  # of the whole classifier

# For the configs without what DeiT adds to the data.
plain_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmpretrain.RandomResizedCrop', scale=224, backend='pillow', interpolation='bicubic'),
    dict(type='mmpretrain.RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='mmpretrain.PackInputs'),
]
plain_loss = dict(_delete_=True, type='mmpretrain.CrossEntropyLoss', loss_weight=1.0)
