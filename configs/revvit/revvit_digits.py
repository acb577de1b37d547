"""RevViT on handwritten digits: trained in minutes, without a GPU and without a download."""
_base_ = '../_base_/digits_classifier.py'

model = dict(
    backbone=dict(
        type='mmrev.RevViT',
        arch=dict(embed_dims=96, num_layers=4, num_heads=4, feedforward_channels=384),
        img_size=64,
        patch_size=8,
        out_type='avg_featmap'),
    neck=None,
    head=dict(in_channels=192))

optim_wrapper = dict(optimizer=dict(lr=1e-3))
