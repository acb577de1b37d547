"""R101-hybrid on ImageNet-1k by the recipe of R50-hybrid."""
_base_ = './pf-resnet50-hybrid_4xb256_in1k.py'

model = dict(backbone=dict(depth=101))
