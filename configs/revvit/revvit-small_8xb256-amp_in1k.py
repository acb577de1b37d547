_base_ = './_revvit_in1k.py'

optim_wrapper = dict(type='AmpOptimWrapper', loss_scale='dynamic')
