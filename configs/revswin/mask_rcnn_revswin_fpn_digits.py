"""Rev-Swin Mask R-CNN on handwritten digits: the detector of `faster_rcnn_revswin_fpn_digits.py` with masks."""
_base_ = './faster_rcnn_revswin_fpn_digits.py'

model = _base_.mask_model
train_dataloader = _base_.mask_train_data
val_dataloader = test_dataloader = _base_.mask_val_data
val_evaluator = test_evaluator = _base_.mask_evaluator
default_hooks = _base_.mask_hooks
