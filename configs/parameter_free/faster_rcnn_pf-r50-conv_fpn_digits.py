"""With ResNet-50, which R50-max is compared with."""
_base_ = './faster_rcnn_pf-r50-max_fpn_digits.py'

model = dict(backbone=dict(operation='conv'))
