"""Common to all sizes on Cityscapes: SegFormer's head, and mmseg's recipe for SegFormer (8x1 images, 160k)."""
_base_ = [
    'mmseg::_base_/models/segformer_mit-b0.py',
    '../_base_/segmentation/cityscapes_1024_adamw_160k.py',
    '../_base_/segmentation/pyramid_segmentor.py',
]

segmentor = _base_.segmentor
segmentor['data_preprocessor']['size'] = (1024, 1024)
model = dict(**segmentor, test_cfg=dict(mode='slide', crop_size=(1024, 1024), stride=(768, 768)))
