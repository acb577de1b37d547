_base_ = './mask_rcnn_revbifpn.py'

model = dict(backbone=dict(arch='s6'), neck=dict(in_channels=[320, 416, 528, 1056]))
