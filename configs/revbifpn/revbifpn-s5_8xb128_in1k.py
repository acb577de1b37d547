_base_ = ['./_revbifpn_in1k.py', '../_base_/datasets/imagenet_bs128_randaug_352.py']

model = dict(
    backbone=dict(arch='s5'),
    neck=dict(in_channels=[256, 336, 416, 848], out_channels=[256, 336, 672, 1696]),
    head=dict(in_channels=[256, 336, 672, 1696], feat_channels=6816, dropout_rate=0.4))
