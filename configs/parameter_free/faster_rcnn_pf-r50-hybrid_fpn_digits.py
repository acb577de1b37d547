"""Faster R-CNN with R50-hybrid and FPN on handwritten digits."""
_base_ = './faster_rcnn_pf-r50-max_fpn_digits.py'

model = dict(backbone=dict(operation='hybrid'))
