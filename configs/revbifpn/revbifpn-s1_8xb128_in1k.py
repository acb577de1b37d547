_base_ = ['./_revbifpn_in1k.py', '../_base_/datasets/imagenet_bs128_randaug_256.py']

model = dict(
    backbone=dict(arch='s1'),
    neck=dict(in_channels=[64, 80, 96, 208], out_channels=[64, 80, 160, 416]),
    head=dict(in_channels=[64, 80, 160, 416], feat_channels=1696, dropout_rate=0.25))
