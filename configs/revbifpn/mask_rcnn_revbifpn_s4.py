_base_ = './mask_rcnn_revbifpn.py'

model = dict(backbone=dict(arch='s4'), neck=dict(in_channels=[192, 256, 320, 640]))
