_base_ = './mask_rcnn_revbifpn.py'

model = dict(backbone=dict(arch='s0'), neck=dict(in_channels=[48, 64, 80, 160]))
