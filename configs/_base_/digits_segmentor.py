"""What all segmentors of handwritten digits share: a small head of Panoptic FPN. The backbone is left to the configs.

The data: `python tools/dataset_converters/digits.py --task semseg`.
"""
_base_ = [
    './datasets/digits_semseg.py',
    './schedules/adamw_short.py',
    'mmseg::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmrev'], allow_failed_imports=False)

model = dict(
    type='mmseg.EncoderDecoder',
    init_cfg=dict(type='mmrev.Pretrained', checkpoint=None),  # of the whole segmentor
    data_preprocessor=dict(
        type='mmseg.SegDataPreProcessor', mean=[127.5, 127.5, 127.5], std=[64., 64., 64.], bgr_to_rgb=True,
        seg_pad_val=255, size_divisor=32, test_cfg=dict(size_divisor=32)),
    decode_head=dict(
        type='mmseg.FPNHead',  # its 3x3 convolutions learn shapes faster than the 1x1 of SegFormer's head
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32],
        channels=64,
        dropout_ratio=0.,
        num_classes=11,
        norm_cfg=dict(type='BN'),
        loss_decode=dict(
            type='mmseg.CrossEntropyLoss',
            class_weight=[0.7] + [3.5] * 10,  # a tenth of the pixels is digits: about 1 on average
            reduction='none')),  # averaged afterwards: 'mean' cannot look up the weight of ignored pixels
    test_cfg=dict(mode='whole'))

max_epochs = 9  # classes of pixels are learnt from random weights more slowly than boxes
lr = 5e-3
train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(optimizer=dict(lr=lr))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', T_max=max_epochs, eta_min=lr / 100, by_epoch=True, begin=0, end=max_epochs,
         convert_to_iter_based=True)]
log_processor = dict(by_epoch=True)
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=10),
    checkpoint=dict(type='CheckpointHook', interval=1, save_best='mIoU', rule='greater', max_keep_ckpts=2))
