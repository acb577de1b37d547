_base_ = ['./_revbifpn_in1k.py', '../_base_/datasets/imagenet_bs128_randaug_256.py']

model = dict(
    backbone=dict(arch='s2'),
    neck=dict(in_channels=[96, 128, 160, 320], out_channels=[96, 128, 256, 640]),
    head=dict(in_channels=[96, 128, 256, 640], feat_channels=2560, dropout_rate=0.3))
