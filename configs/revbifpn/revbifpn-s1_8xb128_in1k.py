_base_ = './revbifpn_in1k.py'

model = dict(
    backbone=dict(arch='s1'),
    neck=dict(in_channels=[64, 80, 96, 208], out_channels=[64, 80, 160, 416]),
    head=dict(in_channels=[64, 80, 160, 416], feat_channels=1696, dropout_rate=0.25))

resolution = 256
train_pipeline, test_pipeline = _base_.train_pipeline, _base_.test_pipeline
train_pipeline[1].scale = resolution
test_pipeline[1].scale, test_pipeline[2].crop_size = int(resolution / 0.875), resolution
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
