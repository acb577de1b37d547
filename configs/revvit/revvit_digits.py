"""RevViT on handwritten digits: trained in minutes, without a GPU and without a download."""
_base_ = '../_base_/digits_classifier_long.py'

model = dict(
    backbone=dict(
        type='mmrev.RevViT',
        arch=dict(embed_dims=64, num_layers=4, num_heads=4, feedforward_channels=256),
        img_size=32,
        patch_size=4),
    head=dict(in_channels=128))

optim_wrapper = dict(optimizer=dict(lr=2e-3))  # at the base's rate runs end up to 3 points apart
