"""ViT-S, which ViT-S-max is compared with, by the same recipe."""
_base_ = './pf-vit-s-max_4xb256_in1k.py'

model = dict(backbone=dict(operation='attention'))
