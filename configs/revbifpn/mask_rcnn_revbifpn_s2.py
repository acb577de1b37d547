_base_ = './mask_rcnn_revbifpn.py'

model = dict(backbone=dict(arch='s2'), neck=dict(in_channels=[96, 128, 160, 320]))
