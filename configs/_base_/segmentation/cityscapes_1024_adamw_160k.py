"""Cityscapes, 160,000 iterations of AdamW with 8x1 images of 1024x1024, as mmseg trains SegFormer."""
_base_ = ['mmseg::_base_/datasets/cityscapes_1024x1024.py', './adamw_160k.py']
custom_imports = dict(imports=['mmrev'], allow_failed_imports=False)

train_dataloader = dict(batch_size=1)
auto_scale_lr = dict(enable=False, base_batch_size=8)
