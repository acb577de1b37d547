_base_ = './mask_rcnn_revbifpn.py'

model = dict(backbone=dict(arch='s1'), neck=dict(in_channels=[64, 80, 96, 208]))
