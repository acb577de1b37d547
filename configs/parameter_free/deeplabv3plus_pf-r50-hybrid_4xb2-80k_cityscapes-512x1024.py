"""DeepLabV3+ on R50-hybrid, Cityscapes, by mmseg's recipe for ResNet-50 (4x2 images, 80k)."""
_base_ = [
    'mmseg::_base_/models/deeplabv3plus_r50-d8.py',
    '../_base_/segmentation/cityscapes_sgd_80k.py',
    './_segmentor.py',
]

model = _base_.segmentor
model['data_preprocessor']['size'] = (512, 1024)
