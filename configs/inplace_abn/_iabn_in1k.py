"""Common to all networks: a classifier with InPlace-ABN on ImageNet-1k, trained as published.

Of each network, batch size, rate and norm are those of the published experiment. Statistics that are not synchronized
are those of one process's share of the batch; over how many that was shared is not published.
"""
_base_ = [
    '../_base_/datasets/imagenet_jitter.py',
    '../_base_/schedules/sgd_step_90e.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmrev'], allow_failed_imports=False)

model = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(
        type='mmrev.IABNResNet',
        depth=50,
        out_indices=(3, ),
        norm_cfg=dict(type='mmrev.InPlaceABN', activation='leaky_relu', activation_param=0.01),
        init_cfg=dict(type='mmrev.Pretrained', checkpoint=None, prefix='backbone.')),
    neck=dict(type='mmpretrain.GlobalAveragePooling'),
    head=dict(
        type='mmpretrain.LinearClsHead',
        num_classes=1000,
        in_channels=2048,
        loss=dict(type='mmpretrain.CrossEntropyLoss', loss_weight=1.0),
        topk=(1, 5),
        init_cfg=dict(type='Xavier', layer='Linear', distribution='uniform', gain=0.1)),
    init_cfg=dict(type='mmrev.Pretrained', checkpoint=None))  # of the whole classifier
