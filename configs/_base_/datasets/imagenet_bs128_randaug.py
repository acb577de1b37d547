"""ImageNet-1k, RandAugment (timm's ``rand-m9-mstd0.5``) and random erasing, at 224 pixels."""
_base_ = './imagenet.py'

resolution = 224
batch_size = 128

bgr_mean = _base_.data_preprocessor.mean[::-1]
bgr_std = _base_.data_preprocessor.std[::-1]

load = dict(type='LoadImageFromFile')
random_crop = dict(
    type='mmpretrain.RandomResizedCrop', scale=resolution, backend='pillow', interpolation='bicubic')
pack = dict(type='mmpretrain.PackInputs')
augmentation = [
    dict(type='mmpretrain.RandomFlip', prob=0.5, direction='horizontal'),
    dict(
        type='mmpretrain.RandAugment',
        _scope_='mmpretrain',  # of its policies' names, for children of `mmrev::` too
        policies='timm_increasing',
        num_policies=2,
        total_level=10,
        magnitude_level=9,
        magnitude_std=0.5,
        hparams=dict(pad_val=[round(x) for x in bgr_mean], interpolation='bicubic')),
    dict(
        type='mmpretrain.RandomErasing',
        erase_prob=0.2,
        mode='rand',
        min_area_ratio=0.02,
        max_area_ratio=1 / 3,
        fill_color=bgr_mean,
        fill_std=bgr_std),
    pack,
]
resize = dict(
    type='mmpretrain.ResizeEdge',
    scale=int(resolution / 0.875),
    edge='short',
    backend='pillow',
    interpolation='bicubic')
center_crop = dict(type='mmpretrain.CenterCrop', crop_size=resolution)

train_pipeline = [load, random_crop, *augmentation]
test_pipeline = [load, resize, center_crop, pack]

train_dataloader = dict(batch_size=batch_size, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=batch_size, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
