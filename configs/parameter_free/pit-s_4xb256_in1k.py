"""PiT-S with attention in all blocks, by the same recipe."""
_base_ = './pit-s-max_4xb256_in1k.py'

model = dict(backbone=dict(operation='attention'))
