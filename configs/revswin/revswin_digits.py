"""Rev-Swin on handwritten digits: trained in minutes, without a GPU and without a download."""
_base_ = '../_base_/digits_classifier_long.py'

model = dict(
    backbone=dict(
        type='mmrev.RevSwin',
        arch=dict(embed_dims=32, depths=(2, 2, 2), num_heads=(2, 4, 8)),
        window_size=4,
        drop_path_rate=0.),
    head=dict(in_channels=256))

optim_wrapper = dict(optimizer=dict(lr=1e-3))  # at the base's rate it ends 5 points lower
