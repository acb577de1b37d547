_base_ = './mask_rcnn_iabn-r50_fpn.py'

model = dict(backbone=dict(type='mmrev.IABNResNeXt', depth=101))
