"""RevViT on CIFAR-10 as minREV trains it (1x128 images).

python main.py --lr 1e-3 --bs 128 --embed_dim 128 --depth 6 --n_head 8 --epochs 100 --model vit
"""
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
        arch=dict(embed_dims=128, num_layers=6, num_heads=8, feedforward_channels=512),
        img_size=32,
        patch_size=4,
        norm_pooled=True,
        norm_cfg=dict(type='LN', eps=1e-5),
        out_type='avg_featmap'),
    neck=None,
    head=dict(in_channels=256))
