_base_ = './mask_rcnn_pf-r50-hybrid_fpn.py'

model = dict(backbone=dict(operation='max'))
