"""Handwritten digits, one folder per class: 1,438 images to train with and 359 others, 10 classes, 32 pixels.

`python tools/dataset_converters/digits.py --task classification` makes it in a second.
"""
data_root = 'data/digits_cls/'
resolution = 64  # pixels that the network sees: half of the strokes' detail is lost below
shift = 6  # greatest random shift, in those pixels
times = 8  # repetitions of the training images that count as an epoch
batch_size = 64
num_workers = 2

data_preprocessor = dict(
    type='mmpretrain.ClsDataPreprocessor',
    num_classes=10,
    mean=[127.5, 127.5, 127.5],
    std=[64., 64., 64.],
    to_rgb=True)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmpretrain.Resize', scale=resolution),
    dict(type='mmpretrain.RandomCrop', crop_size=resolution, padding=shift, padding_mode='edge'),
    dict(type='mmpretrain.PackInputs'),  # no flip: a mirrored digit is another sign
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmpretrain.Resize', scale=resolution),
    dict(type='mmpretrain.PackInputs'),
]

train_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='RepeatDataset',
        times=times,
        dataset=dict(
            type='mmpretrain.CustomDataset', data_root=data_root, data_prefix='train', pipeline=train_pipeline)))
val_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='mmpretrain.CustomDataset', data_root=data_root, data_prefix='val', pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='mmpretrain.Accuracy', topk=(1, ))
test_evaluator = val_evaluator
