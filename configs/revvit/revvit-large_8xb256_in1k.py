"""RevViT-L: ViT-L's size in two streams. Neither the paper nor PySlowFast trains it on ImageNet; the recipe is B's."""
_base_ = './_revvit_in1k.py'

model = dict(backbone=dict(arch='large'), head=dict(in_channels=2048))
