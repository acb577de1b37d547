"""SegFormer's head on RevBiFPN-S0, Cityscapes."""
_base_ = './_segformer_revbifpn_cityscapes.py'

model = dict(backbone=dict(arch='s0'), decode_head=dict(in_channels=[48, 64, 80, 160]))
