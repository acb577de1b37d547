_base_ = './_iabn_in1k.py'

model = dict(backbone=dict(type='mmrev.IABNResNeXt', depth=101))
train_dataloader = dict(batch_size=64)
auto_scale_lr = dict(base_batch_size=512)
