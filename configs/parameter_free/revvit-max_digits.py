"""A small RevViT, every other block of which pools, on handwritten digits: trained in minutes, without a GPU."""
_base_ = '../revvit/revvit_digits.py'

model = dict(backbone=dict(operation='max'))
