"""ADE20K, 160,000 iterations of AdamW with 8x2 images of 512x512, as mmseg trains SegFormer and Swin."""
_base_ = ['mmseg::_base_/datasets/ade20k.py', './adamw_160k.py']
custom_imports = dict(imports=['mmrev'], allow_failed_imports=False)

train_dataloader = dict(batch_size=2)
auto_scale_lr = dict(enable=False, base_batch_size=16)
