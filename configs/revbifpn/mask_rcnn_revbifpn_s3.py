_base_ = './mask_rcnn_revbifpn.py'

model = dict(backbone=dict(arch='s3'), neck=dict(in_channels=[128, 160, 208, 416]))
