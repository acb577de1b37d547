"""RevBiFPN-S0 Mask R-CNN on handwritten digits: the detector of `faster_rcnn_revbifpn_s0_digits.py` with masks."""
_base_ = './faster_rcnn_revbifpn_s0_digits.py'

mask_convs = 2  # of the mask head: COCO's four would only cost time here
mask_size = 28  # pixels of a mask within its box: digits are 24 to 48 pixels tall

model = dict(
    type='mmdet.MaskRCNN',
    data_preprocessor=dict(pad_mask=True),
    roi_head=dict(
        mask_roi_extractor=dict(
            type='mmdet.SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=mask_size // 2, sampling_ratio=0),
            out_channels=_base_.channels,
            featmap_strides=_base_.strides),
        mask_head=dict(
            type='mmdet.FCNMaskHead',
            num_convs=mask_convs,
            in_channels=_base_.channels,
            conv_out_channels=_base_.channels,
            num_classes=10,
            loss_mask=dict(type='mmdet.CrossEntropyLoss', use_mask=True, loss_weight=1.0))),
    train_cfg=dict(rcnn=dict(mask_size=mask_size)),
    test_cfg=dict(rcnn=dict(mask_thr_binary=0.5)))

train_pipeline, test_pipeline = _base_.train_pipeline, _base_.test_pipeline
train_pipeline[1].with_mask = test_pipeline[2].with_mask = True
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

val_evaluator = dict(metric=['bbox', 'segm'])
test_evaluator = val_evaluator
default_hooks = dict(checkpoint=dict(save_best='coco/segm_mAP'))
