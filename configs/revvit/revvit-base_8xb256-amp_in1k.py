_base_ = './_revvit_in1k.py'

model = dict(backbone=dict(arch='deit-base'), head=dict(in_channels=1536))
optim_wrapper = dict(type='AmpOptimWrapper', loss_scale='dynamic')
