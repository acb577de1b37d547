"""Common to all sizes: RevViT on ImageNet-1k by mmpretrain's recipe for 8x256 images and 300 epochs.

README.md has a table of its values beside PySlowFast's, which differ in drop path, weight decay and clipping.
"""
_base_ = [
    '../_base_/datasets/imagenet_bs256_randaug.py',
    '../_base_/schedules/adamw_cosine_bs2048.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmrev'], allow_failed_imports=False)

model = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(
        type='mmrev.RevViT',
        arch='deit-small',
        img_size=224,
        patch_size=16,
        out_type='avg_featmap',
        init_cfg=dict(type='mmrev.Pretrained', checkpoint=None, prefix='backbone.')),
    neck=None,
    head=dict(
        type='mmpretrain.LinearClsHead',
        num_classes=1000,
        in_channels=768,
        loss=dict(type='mmpretrain.LabelSmoothLoss', label_smooth_val=0.1, mode='original')),
    train_cfg=dict(
        augments=[dict(type='mmpretrain.Mixup', alpha=0.8), dict(type='mmpretrain.CutMix', alpha=1.0)]),
    init_cfg=dict(type='mmrev.Pretrained', checkpoint=None))  # of the whole classifier
