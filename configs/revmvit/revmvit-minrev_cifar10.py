"""Rev-MViT on CIFAR-10 as minREV trains it (1x128 images).

python main.py --lr 1e-3 --bs 128 --embed_dim 64 --depth 4 --n_head 1 --epochs 100 --model mvit
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
        type='mmrev.RevMViT',
        arch=dict(embed_dims=64, num_layers=4, num_heads=1, downscale_indices=(1, 3)),
        img_size=32,
        patch_kernel=3,
        patch_stride=2,
        stride_kv=2,
        window_size=16,
        drop_path_rate=0.,
        norm_pooled=True,
        norm_cfg=dict(type='LN', eps=1e-5),
        out_type='avg_featmap'),
    neck=None,
    head=dict(in_channels=256))
