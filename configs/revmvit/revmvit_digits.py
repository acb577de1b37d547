"""Rev-MViT on handwritten digits: trained in minutes, without a GPU and without a download."""
_base_ = '../_base_/digits_classifier.py'

model = dict(
    backbone=dict(
        type='mmrev.RevMViT',
        arch=dict(embed_dims=32, num_layers=6, num_heads=1, downscale_indices=(2, 4)),
        img_size=64,
        window_size=16,
        drop_path_rate=0.,
        out_type='avg_featmap'),
    neck=None,
    head=dict(in_channels=256))

optim_wrapper = dict(optimizer=dict(lr=1e-3))
