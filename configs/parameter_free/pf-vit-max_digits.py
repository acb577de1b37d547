"""A small ViT-max on handwritten digits: trained in minutes, without a GPU and without a download."""
_base_ = '../_base_/digits_classifier_long.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmrev.PFViT',
        arch=dict(embed_dims=128, num_layers=4, num_heads=4),
        operation='max',
        img_size=32,
        patch_size=4),
    neck=dict(_delete_=True, type='mmpretrain.GlobalAveragePooling'),
    head=dict(in_channels=128))

optim_wrapper = dict(optimizer=dict(lr=2e-3))
