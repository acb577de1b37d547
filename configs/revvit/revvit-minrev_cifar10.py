"""RevViT on CIFAR-10 with minREV's settings (1x128 images)."""
_base_ = [
    'mmpretrain::_base_/datasets/cifar10_bs16.py',
    '../_base_/schedules/adam_cosine.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmrev'], allow_failed_imports=False)

model = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(
        type='mmrev.RevViT',
        arch=dict(embed_dims=256, num_layers=4, num_heads=8, feedforward_channels=1024),
        img_size=32,
        patch_size=4,
        norm_pooled=True,
        norm_cfg=dict(type='LN', eps=1e-5),
        out_type='avg_featmap'),
    neck=None,
    head=dict(
        type='mmpretrain.LinearClsHead',
        num_classes=10,
        in_channels=512,
        loss=dict(type='mmpretrain.CrossEntropyLoss', loss_weight=1.0),
        topk=(1, )))

train_dataloader = dict(batch_size=128)
val_dataloader = dict(batch_size=128)
test_dataloader = val_dataloader

max_epochs = 200
train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(optimizer=dict(lr=1e-4))
param_scheduler = [dict(type='CosineAnnealingLR', T_max=max_epochs, by_epoch=True, begin=0, end=max_epochs)]
