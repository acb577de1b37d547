"""The same at 352 pixels."""
_base_ = './imagenet_bs128_randaug.py'

resolution = 352

train_pipeline = [_base_.load, dict(_base_.random_crop, scale=resolution), *_base_.augmentation]
test_pipeline = [
    _base_.load,
    dict(_base_.resize, scale=int(resolution / 0.875)),
    dict(_base_.center_crop, crop_size=resolution),
    _base_.pack,
]

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
