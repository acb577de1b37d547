_base_ = './revvit_in1k.py'

optim_wrapper = dict(type='AmpOptimWrapper', loss_scale='dynamic')
