"""Rev-Swin on CIFAR-10 with minREV's settings (1x128 images)."""
_base_ = [
    '../_base_/linear_classifier.py',
    '../_base_/datasets/cifar10_bs128.py',
    '../_base_/schedules/adam_cosine.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmrev'], allow_failed_imports=False)

model = dict(
    backbone=dict(
        type='mmrev.RevSwin',
        arch=dict(embed_dims=128, depths=(3, 3), num_heads=(8, 16)),
        patch_size=4,
        window_size=4,
        drop_path_rate=0.2,
        out_type='avg_featmap'),
    neck=None,
    head=dict(in_channels=512))
