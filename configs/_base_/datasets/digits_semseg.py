"""Handwritten digits: images of 128 pixels with maps of labels, the background and 10 digits.

`python tools/dataset_converters/digits.py --task semseg` makes it in a few seconds.
"""
_base_ = './digits_detection.py'

data_root = 'data/digits_seg/'
metainfo = dict(classes=('background', *_base_.metainfo.classes), palette=[(0, 0, 0), *_base_.metainfo.palette])

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmseg.LoadAnnotations'),
    dict(type='mmseg.Resize', scale=_base_.image_scale, keep_ratio=True),
    dict(type='mmseg.PackSegInputs'),  # no flip: a mirrored digit is another sign
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='mmseg.Resize', scale=_base_.image_scale, keep_ratio=True),
    dict(type='mmseg.LoadAnnotations'),  # after Resize: the truth keeps its size
    dict(type='mmseg.PackSegInputs'),
]

folders = dict(
    _delete_=True, type='mmseg.BaseSegDataset', data_root=data_root, metainfo=metainfo, img_suffix='.png',
    seg_map_suffix='.png')
train_dataloader = dict(dataset=dict(
    data_prefix=dict(img_path='images/train', seg_map_path='annotations/train'), pipeline=train_pipeline, **folders))
val_dataloader = dict(dataset=dict(
    data_prefix=dict(img_path='images/val', seg_map_path='annotations/val'), pipeline=test_pipeline, test_mode=True,
    **folders))
test_dataloader = val_dataloader

val_evaluator = test_evaluator = dict(_delete_=True, type='mmseg.IoUMetric', iou_metrics=['mIoU'])
