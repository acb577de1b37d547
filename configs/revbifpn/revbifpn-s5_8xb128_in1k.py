_base_ = './revbifpn_in1k.py'

model = dict(
    backbone=dict(arch='s5'),
    neck=dict(in_channels=[256, 336, 416, 848], out_channels=[256, 336, 672, 1696]),
    head=dict(in_channels=[256, 336, 672, 1696], feat_channels=6816, dropout_rate=0.4))

resolution = 352
train_pipeline, test_pipeline = _base_.train_pipeline, _base_.test_pipeline
train_pipeline[1].scale = resolution
test_pipeline[1].scale, test_pipeline[2].crop_size = int(resolution / 0.875), resolution
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
