"""The published network to compare with: batch norm and leaky ReLU. Its weights have both signs."""
_base_ = './_iabn_in1k.py'

model = dict(backbone=dict(type='mmrev.IABNResNeXt', depth=101, norm_cfg=dict(type='mmrev.BatchNormAct')))
train_dataloader = dict(batch_size=32)
