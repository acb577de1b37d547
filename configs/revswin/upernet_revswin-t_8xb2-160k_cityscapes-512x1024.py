"""UPerNet on Rev-Swin-T, Cityscapes, by mmseg's recipe for Swin-T (8x2 images, 160k)."""
_base_ = [
    'mmseg::_base_/models/upernet_r50.py',
    '../_base_/segmentation/cityscapes_adamw_160k.py',
    './_segmentor.py',
]

model = _base_.segmentor
model['data_preprocessor']['size'] = (512, 1024)
