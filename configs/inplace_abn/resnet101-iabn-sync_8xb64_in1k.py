_base_ = './_iabn_in1k.py'

model = dict(backbone=dict(depth=101, norm_cfg=dict(type='mmrev.InPlaceABNSync')))
train_dataloader = dict(batch_size=64)
optim_wrapper = dict(optimizer=dict(lr=0.2))
auto_scale_lr = dict(base_batch_size=512)
