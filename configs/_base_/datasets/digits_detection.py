"""Handwritten digits: COCO boxes and masks, 128-pixel images, 10 classes.

`python tools/dataset_converters/digits.py` makes it in a few seconds. mmdet's types carry their scope, so that a config
of any other project can inherit from this one and gets the same classes.
"""
data_root = 'data/digits/'
batch_size = 8
num_workers = 2
image_scale = (128, 128)

metainfo = dict(
    classes=('0', '1', '2', '3', '4', '5', '6', '7', '8', '9'),
    palette=[(230, 25, 75), (60, 180, 75), (255, 225, 25), (0, 130, 200), (245, 130, 48), (145, 30, 180),
             (70, 240, 240), (240, 50, 230), (210, 245, 60), (250, 190, 212)])

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(type='mmdet.Resize', scale=image_scale, keep_ratio=True),
    dict(type='mmdet.PackDetInputs'),  # no flip: a mirrored digit is another sign
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmdet.Resize', scale=image_scale, keep_ratio=True),
    dict(type='mmdet.LoadAnnotations', with_bbox=True),
    dict(type='mmdet.PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]

train_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='mmdet.CocoDataset',
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/train.json',
        data_prefix=dict(img='train/'),
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmdet.CocoDataset',
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/val.json',
        data_prefix=dict(img='val/'),
        test_mode=True,
        pipeline=test_pipeline))
test_dataloader = val_dataloader

val_evaluator = dict(type='mmdet.CocoMetric', ann_file=data_root + 'annotations/val.json', metric='bbox')
test_evaluator = dict(val_evaluator, classwise=True)

# For the configs with masks.
mask_annotations = dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True)
mask_train_data = dict(dataset=dict(pipeline=[train_pipeline[0], mask_annotations, *train_pipeline[2:]]))
mask_val_data = dict(dataset=dict(pipeline=[*test_pipeline[:2], mask_annotations, test_pipeline[3]]))
mask_evaluator = dict(metric=['bbox', 'segm'])
