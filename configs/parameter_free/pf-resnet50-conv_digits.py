_base_ = './pf-resnet50-hybrid_digits.py'

model = dict(backbone=dict(operation='conv'))
