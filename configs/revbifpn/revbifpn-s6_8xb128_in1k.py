_base_ = ['./_revbifpn_in1k.py', '../_base_/datasets/imagenet_bs128_randaug_352.py']

model = dict(
    backbone=dict(arch='s6'),
    neck=dict(in_channels=[320, 416, 528, 1056], out_channels=[320, 416, 848, 2128]),
    head=dict(in_channels=[320, 416, 848, 2128], feat_channels=8528, dropout_rate=0.6))
