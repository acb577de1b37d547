"""Common to all detectors of handwritten digits: a small Faster R-CNN. The backbone is left to the configs.

The data: `python tools/dataset_converters/digits.py`.
"""
_base_ = [
    'mmdet::_base_/models/faster-rcnn_r50_fpn.py',
    './datasets/digits_detection.py',
    './schedules/adamw_short.py',
    'mmdet::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmrev'], allow_failed_imports=False)

channels = 64  # of the feature pyramid and the heads: COCO's 256 would only cost time here
strides = [4, 8, 16]  # of the pyramid: digits are 24 to 48 pixels tall
anchor_scale = 6  # times the stride: anchors of 24, 48 and 96 pixels
anchor_ratios = [1.0, 1.5, 2.25]  # height over width: digits are taller than wide

model = dict(
    init_cfg=dict(type='mmrev.Pretrained', checkpoint=None),  # of the whole detector
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[64., 64., 64.]),
    neck=dict(out_channels=channels, num_outs=len(strides)),
    rpn_head=dict(
        in_channels=channels,
        feat_channels=channels,
        anchor_generator=dict(scales=[anchor_scale], ratios=anchor_ratios, strides=strides)),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=channels, featmap_strides=strides),
        bbox_head=dict(in_channels=channels, fc_out_channels=256, num_classes=10)),
    train_cfg=dict(rpn_proposal=dict(nms_pre=500, max_per_img=200), rcnn=dict(sampler=dict(num=64, pos_fraction=0.5))),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=100)))

# For the configs with masks.
mask_size = 28  # pixels of a mask within its box: digits are 24 to 48 pixels tall
mask_model = dict(
    type='mmdet.MaskRCNN',
    data_preprocessor=dict(pad_mask=True),
    roi_head=dict(
        mask_roi_extractor=dict(
            type='mmdet.SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=mask_size // 2, sampling_ratio=0),
            out_channels=channels,
            featmap_strides=strides),
        mask_head=dict(
            type='mmdet.FCNMaskHead',
            num_convs=2,  # COCO's four would only cost time here
            in_channels=channels,
            conv_out_channels=channels,
            num_classes=10,
            loss_mask=dict(type='mmdet.CrossEntropyLoss', use_mask=True, loss_weight=1.0))),
    train_cfg=dict(rcnn=dict(mask_size=mask_size)),
    test_cfg=dict(rcnn=dict(mask_thr_binary=0.5)))
mask_hooks = dict(checkpoint=dict(save_best='coco/segm_mAP'))

default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(save_best='coco/bbox_mAP', rule='greater', max_keep_ckpts=2))
