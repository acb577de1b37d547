"""What the segmentors share: UPerNet on Rev-Swin-T.

They start from random weights unless told otherwise: --cfg-options model.backbone.init_cfg.checkpoint=FILE
"""
channels = [96, 192, 384, 1536]
segmentor = dict(
    pretrained=None,
    init_cfg=dict(type='mmrev.Pretrained', checkpoint=None),  # of the whole segmentor
    data_preprocessor=dict(size=(512, 512), test_cfg=dict(size_divisor=32)),
    backbone=dict(
        _delete_=True,
        type='mmrev.RevSwin',
        arch='tiny',
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.3,
        init_cfg=dict(type='mmrev.Pretrained', checkpoint=None, prefix='backbone.')),
    decode_head=dict(in_channels=channels),
    auxiliary_head=dict(in_channels=channels[2]))
