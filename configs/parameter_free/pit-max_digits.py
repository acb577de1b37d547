"""A small PiT-max on handwritten digits: trained in minutes, without a GPU and without a download."""
_base_ = '../_base_/digits_classifier_long.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmrev.PiT',
        arch=dict(embed_dims=(32, 64, 128), num_layers=(2, 2, 2), num_heads=(1, 2, 4), patch_size=4, stride=2),
        operation='max',
        img_size=32,
        out_indices=(2, )),
    neck=dict(_delete_=True, type='mmpretrain.GlobalAveragePooling'),
    head=dict(in_channels=128))

optim_wrapper = dict(optimizer=dict(lr=2e-3))
