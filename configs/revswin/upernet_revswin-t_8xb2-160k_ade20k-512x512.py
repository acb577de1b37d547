"""UPerNet on Rev-Swin-T, ADE20K, by mmseg's recipe for Swin-T (8x2 images, 160k)."""
_base_ = [
    'mmseg::_base_/models/upernet_r50.py',
    '../_base_/segmentation/ade20k_adamw_160k.py',
    './_segmentor.py',
]

model = _base_.segmentor
model['decode_head']['num_classes'] = model['auxiliary_head']['num_classes'] = 150
