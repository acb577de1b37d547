"""SegFormer's head on RevBiFPN-S4, ADE20K."""
_base_ = './_segformer_revbifpn_ade20k.py'

model = dict(backbone=dict(arch='s4'), decode_head=dict(in_channels=[192, 256, 320, 640]))
