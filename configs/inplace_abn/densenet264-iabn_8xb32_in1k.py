_base_ = './_iabn_in1k.py'

model = dict(backbone=dict(type='mmrev.IABNDenseNet', depth=264), head=dict(in_channels=2688))
train_dataloader = dict(batch_size=32)
