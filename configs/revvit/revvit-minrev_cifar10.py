"""RevViT on CIFAR-10 with minREV's settings (1x128 images)."""
_base_ = [
    '../_base_/linear_classifier.py',
    '../_base_/datasets/cifar10_bs128.py',
    '../_base_/schedules/adam_cosine.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmrev'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        type='mmrev.RevViT',
        arch=dict(embed_dims=256, num_layers=4, num_heads=8, feedforward_channels=1024),
        img_size=32,
        patch_size=4,
        norm_pooled=True,
        norm_cfg=dict(type='LN', eps=1e-5),
        out_type='avg_featmap'),
    neck=None,
    head=dict(in_channels=512))

max_epochs = 200
train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(optimizer=dict(lr=1e-4))
param_scheduler = [dict(type='CosineAnnealingLR', T_max=max_epochs, by_epoch=True, begin=0, end=max_epochs)]
