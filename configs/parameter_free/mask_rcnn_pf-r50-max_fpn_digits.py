"""R50-max Mask R-CNN on handwritten digits: the detector of `faster_rcnn_pf-r50-max_fpn_digits.py` with masks."""
_base_ = './faster_rcnn_pf-r50-max_fpn_digits.py'

model = _base_.mask_model
model.roi_head.mask_roi_extractor.out_channels = model.roi_head.mask_head.in_channels = _base_.channels
train_dataloader = _base_.mask_train_data
val_dataloader = test_dataloader = _base_.mask_val_data
val_evaluator = test_evaluator = _base_.mask_evaluator
default_hooks = _base_.mask_hooks
