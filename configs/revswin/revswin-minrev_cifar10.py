"""Rev-Swin on CIFAR-10 as minREV trains it (1x128 images).

python main.py --lr 1e-3 --bs 128 --embed_dim 128 --depth 4 --n_head 4 --epochs 100 --model swin
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
        type='mmrev.RevSwin',
        arch=dict(embed_dims=128, depths=(2, 2), num_heads=(4, 8)),
        patch_size=4,
        window_size=4,
        shift_back=False,  # as in minREV
        drop_path_rate=0.2,
        out_type='avg_featmap'),
    neck=None,
    head=dict(in_channels=512))
