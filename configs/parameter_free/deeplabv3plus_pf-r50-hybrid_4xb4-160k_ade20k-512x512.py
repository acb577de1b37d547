"""DeepLabV3+ on R50-hybrid, ADE20K, by mmseg's recipe for ResNet-50 (4x4 images, 160k)."""
_base_ = [
    'mmseg::_base_/models/deeplabv3plus_r50-d8.py',
    '../_base_/segmentation/ade20k_sgd_160k.py',
    './_segmentor.py',
]

model = dict(**_base_.segmentor, decode_head=dict(num_classes=150), auxiliary_head=dict(num_classes=150))
