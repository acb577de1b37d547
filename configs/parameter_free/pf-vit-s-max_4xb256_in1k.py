"""ViT-S-max on ImageNet-1k by the recipe of DeiT: 4x256 images a step, 300 epochs."""
_base_ = '../_base_/deit_classifier.py'

model = dict(
    backbone=dict(
        type='mmrev.PFViT',
        arch='s',
        operation='max',
        drop_path_rate=_base_.drop_path_rate,
        init_cfg=dict(type='mmrev.Pretrained', checkpoint=None, prefix='backbone.')),
    head=dict(in_channels=384))
