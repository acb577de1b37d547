"""ViT-S-max whose residual stream is split in two, as RevViT's: its training memory does not grow with depth."""
_base_ = '../_base_/deit_classifier.py'

model = dict(
    backbone=dict(
        type='mmrev.RevViT',
        arch='deit-small',
        operation='max',
        drop_path_rate=_base_.drop_path_rate,
        out_type='featmap'),
    head=dict(in_channels=768))
