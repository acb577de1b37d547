"""PiT-Ti-max on handwritten digits: trained in minutes, without a GPU and without a download.

The data: `python tools/dataset_converters/digits.py --task classification`.
"""
_base_ = [
    '../_base_/datasets/digits_classification.py',
    '../_base_/schedules/adamw_short.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmrev'], allow_failed_imports=False)

model = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(type='mmrev.PiT', arch='ti', operation='max', img_size=64, out_indices=(2, )),
    neck=dict(type='mmpretrain.GlobalAveragePooling'),
    head=dict(
        type='mmpretrain.LinearClsHead',
        num_classes=10,
        in_channels=256,
        loss=dict(type='mmpretrain.CrossEntropyLoss', loss_weight=1.0),
        topk=(1, )))

optim_wrapper = dict(optimizer=dict(lr=1e-3))
auto_scale_lr = dict(base_batch_size=64)
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(save_best='accuracy/top1', rule='greater', max_keep_ckpts=2))
