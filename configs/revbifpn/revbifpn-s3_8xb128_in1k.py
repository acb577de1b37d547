_base_ = ['./_revbifpn_in1k.py', '../_base_/datasets/imagenet_bs128_randaug_288.py']

model = dict(
    backbone=dict(arch='s3'),
    neck=dict(in_channels=[128, 160, 208, 416], out_channels=[128, 160, 336, 848]),
    head=dict(in_channels=[128, 160, 336, 848], feat_channels=3408, dropout_rate=0.3))
