"""SegFormer's head on RevBiFPN-S6, ADE20K."""
_base_ = './_segformer_revbifpn_ade20k.py'

model = dict(backbone=dict(arch='s6'), decode_head=dict(in_channels=[320, 416, 528, 1056]))
