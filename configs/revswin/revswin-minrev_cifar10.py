"""Rev-Swin on CIFAR-10 with minREV's settings (1x128 images)."""
_base_ = [
    'mmpretrain::_base_/datasets/cifar10_bs16.py',
    '../_base_/schedules/adam_cosine.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmrev'], allow_failed_imports=False)

model = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(
        type='mmrev.RevSwin',
        arch=dict(embed_dims=128, depths=(3, 3), num_heads=(8, 16)),
        patch_size=4,
        window_size=4,
        drop_path_rate=0.2,
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
