"""ResNet-18 with InPlace-ABN on handwritten digits: trained in minutes, without a GPU and without a download."""
_base_ = '../_base_/digits_classifier.py'

model = dict(
    backbone=dict(
        type='mmrev.IABNResNet',
        depth=18,
        out_indices=(3, ),
        norm_cfg=dict(type='mmrev.InPlaceABN', activation='leaky_relu', activation_param=0.01)),
    head=dict(in_channels=512))
