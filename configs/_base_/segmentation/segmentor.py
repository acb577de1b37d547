"""What the segmentors on our backbones share. They start from random weights unless told otherwise:
`--cfg-options model.backbone.init_cfg.checkpoint=FILE`, or a name such as `mmrev://revbifpn-s0_3rdparty_in1k`.
"""
segmentor = dict(
    pretrained=None,
    init_cfg=dict(type='mmrev.Pretrained', checkpoint=None),  # of the whole segmentor
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(_delete_=True, init_cfg=dict(type='mmrev.Pretrained', checkpoint=None, prefix='backbone.')))
padded = dict(test_cfg=dict(size_divisor=32))  # data_preprocessor of backbones that need multiples of their stride
