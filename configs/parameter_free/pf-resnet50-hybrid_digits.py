"""R50-hybrid on handwritten digits: trained in minutes, without a GPU and without a download."""
_base_ = '../_base_/digits_classifier.py'

model = dict(
    backbone=dict(type='mmrev.PFResNet', depth=50, operation='hybrid', out_indices=(3, )), head=dict(in_channels=2048))
