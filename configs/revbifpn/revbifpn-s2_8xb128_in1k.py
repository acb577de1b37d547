_base_ = './revbifpn_in1k.py'

model = dict(
    backbone=dict(arch='s2'),
    neck=dict(in_channels=[96, 128, 160, 320], out_channels=[96, 128, 256, 640]),
    head=dict(in_channels=[96, 128, 256, 640], feat_channels=2560, dropout_rate=0.3))

resolution = 256
train_pipeline, test_pipeline = _base_.train_pipeline, _base_.test_pipeline
train_pipeline[1].scale = resolution
test_pipeline[1].scale, test_pipeline[2].crop_size = int(resolution / 0.875), resolution
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
