"""ViT-Ti-max on CIFAR-10, patches of 4 pixels (1x128 images)."""
_base_ = [
    '../_base_/linear_classifier.py',
    '../_base_/datasets/cifar10_bs128.py',
    '../_base_/schedules/adamw_short.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmrev'], allow_failed_imports=False)

max_epochs = 200
lr = 5e-4

model = dict(
    backbone=dict(type='mmrev.PFViT', arch='ti', operation='max', img_size=32, patch_size=4),
    head=dict(in_channels=192))

train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(optimizer=dict(lr=lr, weight_decay=0.05))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=max_epochs - 5, by_epoch=True, begin=5, end=max_epochs,
         convert_to_iter_based=True),
]
auto_scale_lr = dict(base_batch_size=128)
