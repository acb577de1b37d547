"""ResNet-50 by the recipe of DeiT, with which ViT-S-max is compared."""
_base_ = '../_base_/deit_classifier.py'

model = dict(
    backbone=dict(type='mmrev.PFResNet', depth=50, operation='conv', out_indices=(3, )), head=dict(in_channels=2048))
