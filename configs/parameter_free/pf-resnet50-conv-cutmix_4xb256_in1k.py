"""ResNet-50 with CutMix, by the recipe of R50-hybrid."""
_base_ = './pf-resnet50-hybrid_4xb256_in1k.py'

model = dict(backbone=dict(operation='conv'), train_cfg=dict(augments=dict(type='mmpretrain.CutMix', alpha=1.0)))
