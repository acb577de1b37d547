"""Rev-Swin-T on ImageNet-1k by mmpretrain's recipe of Swin-T (16x64 images, 300 epochs)."""
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py',
    'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmrev'], allow_failed_imports=False)

data_preprocessor = dict(type='mmpretrain.ClsDataPreprocessor')  # children of `mmrev::` have its scope
model = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(
        type='mmrev.RevSwin',
        arch='tiny',
        drop_path_rate=0.2,
        init_cfg=dict(type='mmrev.Pretrained', checkpoint=None, prefix='backbone.')),
    neck=dict(type='mmpretrain.GlobalAveragePooling'),
    head=dict(
        type='mmpretrain.LinearClsHead',
        num_classes=1000,
        in_channels=1536,
        loss=dict(type='mmpretrain.LabelSmoothLoss', label_smooth_val=0.1, mode='original')),
    train_cfg=dict(
        augments=[dict(type='mmpretrain.Mixup', alpha=0.8), dict(type='mmpretrain.CutMix', alpha=1.0)]),
    init_cfg=dict(type='mmrev.Pretrained', checkpoint=None))  # of the whole classifier

optim_wrapper = dict(clip_grad=dict(max_norm=5.0))
