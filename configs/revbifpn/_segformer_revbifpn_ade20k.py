"""Common to all sizes on ADE20K: SegFormer's head, and mmseg's recipe for SegFormer (8x2 images, 160k)."""
_base_ = [
    'mmseg::_base_/models/segformer_mit-b0.py',
    '../_base_/segmentation/ade20k_adamw_160k.py',
    '../_base_/segmentation/pyramid_segmentor.py',
]

model = dict(**_base_.segmentor, decode_head=dict(num_classes=150))
