"""SegFormer's head on RevBiFPN-S3, ADE20K."""
_base_ = './_segformer_revbifpn_ade20k.py'

model = dict(backbone=dict(arch='s3'), decode_head=dict(in_channels=[128, 160, 208, 416]))
