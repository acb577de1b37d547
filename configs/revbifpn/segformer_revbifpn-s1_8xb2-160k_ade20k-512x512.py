"""SegFormer's head on RevBiFPN-S1, ADE20K."""
_base_ = './_segformer_revbifpn_ade20k.py'

model = dict(backbone=dict(arch='s1'), decode_head=dict(in_channels=[64, 80, 96, 208]))
