_base_ = ['./_revbifpn_in1k.py', '../_base_/datasets/imagenet_bs128_randaug_320.py']

model = dict(
    backbone=dict(arch='s4'),
    neck=dict(in_channels=[192, 256, 320, 640], out_channels=[192, 256, 512, 1280]),
    head=dict(in_channels=[192, 256, 512, 1280], feat_channels=5120, dropout_rate=0.4))
