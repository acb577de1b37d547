_base_ = './pf-vit-s-max_4xb256_in1k.py'

model = dict(backbone=dict(arch='b'), head=dict(in_channels=768))
