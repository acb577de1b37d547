_base_ = './mask_rcnn_revbifpn.py'

model = dict(backbone=dict(arch='s5'), neck=dict(in_channels=[256, 336, 416, 848]))
