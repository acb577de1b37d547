"""ViT-Ti-max on handwritten digits: trained in minutes, without a GPU and without a download."""
_base_ = '../_base_/digits_classifier.py'

model = dict(
    backbone=dict(type='mmrev.PFViT', arch='ti', operation='max', img_size=64, patch_size=8),
    head=dict(in_channels=192))

optim_wrapper = dict(optimizer=dict(lr=1e-3))
