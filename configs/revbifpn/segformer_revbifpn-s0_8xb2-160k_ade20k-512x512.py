"""SegFormer's head on RevBiFPN-S0, ADE20K."""
_base_ = './_segformer_revbifpn_ade20k.py'

model = dict(backbone=dict(arch='s0'), decode_head=dict(in_channels=[48, 64, 80, 160]))
