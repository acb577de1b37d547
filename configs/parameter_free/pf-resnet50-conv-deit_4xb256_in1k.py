"""ResNet-50 by the recipe of DeiT, with which ViT-S-max is compared."""
_base_ = './pf-vit-s-max_4xb256_in1k.py'

model = dict(
    backbone=dict(_delete_=True, type='mmrev.PFResNet', depth=50, operation='conv', out_indices=(3, )),
    head=dict(in_channels=2048))
