"""Common to all sizes: the classifier of the paper on ImageNet-1k.

Architecture, resolution, dropout and stochastic depth of each size are the published code's. The schedule is ours, of
EfficientNet's kind; README.md has a table of what is published and what is ours.
"""
_base_ = [
    '../_base_/schedules/sgd_cosine_350e.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmrev'], allow_failed_imports=False)

model = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(
        type='mmrev.RevBiFPN',
        arch='s0',
        init_cfg=dict(type='mmrev.Pretrained', checkpoint=None, prefix='backbone.')),
    neck=dict(type='mmrev.RevBiFPNNeck', in_channels=[48, 64, 80, 160], out_channels=[48, 64, 128, 320]),
    head=dict(
        type='mmrev.RevBiFPNClsHead',
        num_classes=1000,
        in_channels=[48, 64, 128, 320],
        feat_channels=1280,
        dropout_rate=0.25,
        loss=dict(type='mmpretrain.LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        topk=(1, 5)),
    train_cfg=dict(augments=dict(type='mmpretrain.Mixup', alpha=0.2)),
    init_cfg=dict(type='mmrev.Pretrained', checkpoint=None))  # of the whole classifier

custom_hooks = [dict(type='EMAHook', ema_type='ExponentialMovingAverage', momentum=1e-4, update_buffers=True)]
