"""What the segmentors share: R50-hybrid of stride 8."""
_base_ = '../_base_/segmentation/segmentor.py'

segmentor = dict(backbone=dict(
    type='mmrev.PFResNet', depth=50, operation='hybrid', out_indices=(0, 1, 2, 3), strides=(1, 2, 1, 1),
    dilations=(1, 1, 2, 4)))
