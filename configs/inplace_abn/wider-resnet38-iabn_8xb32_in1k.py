_base_ = './_iabn_in1k.py'

model = dict(backbone=dict(type='mmrev.WiderResNet', depth=38, out_indices=(5, )), head=dict(in_channels=4096))
train_dataloader = dict(batch_size=32)
# To 0 in a straight line, step by step.
param_scheduler = [dict(type='PolyLR', power=1, eta_min=0, by_epoch=True, begin=0, end=90, convert_to_iter_based=True)]
