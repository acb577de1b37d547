"""UPerNet on RevViT-B with ViTDet's simple feature pyramid, ADE20K, by mmseg's recipe (8x2 images, 160k)."""
_base_ = [
    'mmseg::_base_/models/upernet_vit-b16_ln_mln.py',
    '../_base_/segmentation/ade20k_adamw_160k.py',
    '../_base_/segmentation/segmentor.py',
]

channels = 256  # of the pyramid
model = dict(
    **_base_.segmentor,
    neck=dict(_delete_=True, type='mmrev.SimpleFeaturePyramid', in_channels=[1536], out_channels=channels, num_outs=4),
    decode_head=dict(in_channels=[channels] * 4, num_classes=150),
    auxiliary_head=dict(in_channels=channels, num_classes=150))
model['data_preprocessor'].update(_base_.padded)
model['backbone'].update(
    type='mmrev.RevViT', arch='deit-base', img_size=512, patch_size=16, drop_path_rate=0.1, out_type='featmap')
