"""SGD for 90 epochs of 256 images a step; a tenth of the rate after 30 and after 60."""
max_epochs = 90
lr = 0.1

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=lr, momentum=0.9, nesterov=True, weight_decay=1e-4))
param_scheduler = [dict(type='StepLR', step_size=30, gamma=0.1, by_epoch=True)]
auto_scale_lr = dict(enable=False, base_batch_size=256)
