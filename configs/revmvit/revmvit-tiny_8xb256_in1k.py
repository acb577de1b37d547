"""Rev-MViT-T on ImageNet-1k by mmpretrain's recipe of MViTv2-T (8x256 images, 300 epochs)."""
_base_ = [
    '../_base_/datasets/imagenet_bs256_swin_224.py',
    'mmpretrain::_base_/schedules/imagenet_bs2048_AdamW.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmrev'], allow_failed_imports=False)

warmup_epochs = 70

model = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(
        type='mmrev.RevMViT',
        arch='tiny',
        drop_path_rate=0.1,
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

optim_wrapper = dict(
    optimizer=dict(lr=2.5e-4),
    paramwise_cfg=dict(
        norm_decay_mult=0.,
        bias_decay_mult=0.,
        custom_keys={
            '.pos_embed': dict(decay_mult=0.),
            '.rel_pos_h': dict(decay_mult=0.),
            '.rel_pos_w': dict(decay_mult=0.)
        }),
    clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, end=warmup_epochs, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=warmup_epochs)
]
auto_scale_lr = dict(base_batch_size=2048)
