_base_ = './revmvit-minrev_cifar10.py'

optim_wrapper = dict(type='AmpOptimWrapper', loss_scale='dynamic')
