"""SegFormer's head on RevBiFPN-S5, ADE20K."""
_base_ = './_segformer_revbifpn_ade20k.py'

model = dict(backbone=dict(arch='s5'), decode_head=dict(in_channels=[256, 336, 416, 848]))
