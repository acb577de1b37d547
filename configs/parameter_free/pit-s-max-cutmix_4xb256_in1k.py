"""The same without what DeiT adds to the data, but with CutMix."""
_base_ = './pit-s-max_4xb256_in1k.py'

model = dict(
    head=dict(loss=_base_.plain_loss),
    train_cfg=dict(_delete_=True, augments=dict(type='mmpretrain.CutMix', alpha=1.0)))
train_pipeline = _base_.plain_pipeline
train_dataloader = dict(
    sampler=dict(_delete_=True, type='DefaultSampler', shuffle=True), dataset=dict(pipeline=train_pipeline))
