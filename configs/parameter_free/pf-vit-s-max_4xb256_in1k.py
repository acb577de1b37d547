"""ViT-S-max on ImageNet-1k by the recipe of DeiT: 4x256 images a step, 300 epochs."""
_base_ = [
    '../_base_/datasets/imagenet_bs256_repeat_aug.py',
    '../_base_/schedules/adamw_cosine_300e.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmrev'], allow_failed_imports=False)

drop_path_rate = 0.1

model = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(
        type='mmrev.PFViT',
        arch='s',
        operation='max',
        drop_path_rate=drop_path_rate,
        init_cfg=dict(type='mmrev.Pretrained', checkpoint=None, prefix='backbone.')),
    neck=dict(type='mmpretrain.GlobalAveragePooling'),
    head=dict(
        type='mmpretrain.LinearClsHead',
        num_classes=1000,
        in_channels=384,
        loss=dict(type='mmpretrain.LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        topk=(1, 5)),
    train_cfg=dict(augments=[dict(type='mmpretrain.Mixup', alpha=0.8), dict(type='mmpretrain.CutMix', alpha=1.0)]),
    init_cfg=dict(type='mmrev.Pretrained', checkpoint=None))  # of the whole classifier
