"""The published segmentation network of InPlace-ABN on Mapillary Vistas: WiderResNet-38 (a2, dilated) and DeepLabV3.

Of the paper and its code: the network, the preprocessing (longest side 2048, mean, std), 65 classes, SGD with the poly
policy, random scales and crops; 53.42 mIoU with flip. The crop is the head's window of 84 points of stride 8. Ours:
rates, number of iterations and images per process.

The published snapshot (CC BY-NC-SA: no commercial use) becomes a checkpoint of this config by
`mmrev convert wide_resnet38_deeplab_vistas.pth.tar vistas.pth --any-hash`. ImageNet weights for the backbone:
--cfg-options model.backbone.init_cfg.checkpoint=FILE
"""
_base_ = ['mmseg::_base_/datasets/mapillary_v1_65.py', 'mmseg::_base_/default_runtime.py']
custom_imports = dict(imports=['mmrev'], allow_failed_imports=False)

longest_side, crop_size, max_iters = 2048, (672, 672), 100_000
norm_cfg = dict(type='mmrev.InPlaceABNSync', activation='leaky_relu', activation_param=0.01)

model = dict(
    type='mmrev.MultiScaleEncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[255 * x for x in (0.41738699, 0.45732192, 0.46886091)],
        std=[255 * x for x in (0.25685097, 0.26509955, 0.29067996)],
        bgr_to_rgb=True,
        size=crop_size),
    backbone=dict(
        type='mmrev.WiderResNet', depth=38, a2=True, dilated=True, norm_cfg=norm_cfg,
        init_cfg=dict(type='mmrev.Pretrained', checkpoint=None, prefix='backbone.')),
    decode_head=dict(
        type='mmrev.InPlaceABNDeepLabHead', in_channels=4096, num_classes=65, norm_cfg=norm_cfg,
        loss_decode=dict(type='CrossEntropyLoss')),
    test_cfg=dict(mode='whole', scales=(1., ), flip=True, fusion='mean'),
    init_cfg=dict(type='mmrev.Pretrained', checkpoint=None))  # of the whole segmentor

train_dataloader = dict(batch_size=2, dataset=dict(pipeline=[
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(longest_side, longest_side), ratio_range=(0.7, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs')]))
val_dataloader = dict(dataset=dict(pipeline=[
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(longest_side, longest_side), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')]))
test_dataloader = val_dataloader

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.0025, momentum=0.9, weight_decay=1e-4))
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0, begin=0, end=max_iters, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=10_000)
val_cfg, test_cfg = dict(type='ValLoop'), dict(type='TestLoop')
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=10_000))
auto_scale_lr = dict(enable=False, base_batch_size=16)
