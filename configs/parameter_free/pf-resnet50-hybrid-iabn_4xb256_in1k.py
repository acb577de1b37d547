"""R50-hybrid with InPlace-ABN, whose statistics are those of all processes."""
_base_ = './pf-resnet50-hybrid_4xb256_in1k.py'

model = dict(
    backbone=dict(norm_cfg=dict(type='mmrev.InPlaceABNSync', activation='leaky_relu', activation_param=0.01)))
