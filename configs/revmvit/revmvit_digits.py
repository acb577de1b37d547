"""Rev-MViT on handwritten digits: trained in minutes, without a GPU and without a download."""
_base_ = '../_base_/digits_classifier_long.py'

model = dict(
    backbone=dict(
        type='mmrev.RevMViT',
        arch=dict(embed_dims=32, num_layers=6, num_heads=1, downscale_indices=(2, 4)),
        img_size=32,
        window_size=8,
        drop_path_rate=0.),
    head=dict(in_channels=256))
