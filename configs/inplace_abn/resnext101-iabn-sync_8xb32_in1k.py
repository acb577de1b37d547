_base_ = './_iabn_in1k.py'

model = dict(backbone=dict(type='mmrev.IABNResNeXt', depth=101, norm_cfg=dict(type='mmrev.InPlaceABNSync')))
train_dataloader = dict(batch_size=32)
