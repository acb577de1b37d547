"""SegFormer's head on RevBiFPN-S2, ADE20K."""
_base_ = './_segformer_revbifpn_ade20k.py'

model = dict(backbone=dict(arch='s2'), decode_head=dict(in_channels=[96, 128, 160, 320]))
