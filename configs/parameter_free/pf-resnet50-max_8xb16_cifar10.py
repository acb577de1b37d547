_base_ = './pf-resnet50-hybrid_8xb16_cifar10.py'

model = dict(backbone=dict(operation='max'))
