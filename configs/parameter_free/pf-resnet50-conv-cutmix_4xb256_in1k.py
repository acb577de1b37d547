"""The same with CutMix."""
_base_ = './pf-resnet50-conv_4xb256_in1k.py'

model = dict(train_cfg=dict(augments=dict(type='mmpretrain.CutMix', alpha=1.0)))
