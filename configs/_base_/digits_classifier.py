"""Common to all classifiers of handwritten digits. The backbone and its channels are left to the configs.

The data: `python tools/dataset_converters/digits.py --task classification`.
"""
_base_ = [
    './linear_classifier.py',
    './datasets/digits_classification.py',
    './schedules/adamw_short.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmrev'], allow_failed_imports=False)

auto_scale_lr = dict(base_batch_size=64)
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(save_best='accuracy/top1', rule='greater', max_keep_ckpts=2))
