"""What the segmentors share: RevBiFPN, whose levels go to the head as they are: they have been fused already.

All start from random weights unless told otherwise:
--cfg-options model.backbone.init_cfg.checkpoint=mmrev://revbifpn-s0_3rdparty_in1k
"""
segmentor = dict(
    pretrained=None,
    init_cfg=dict(type='mmrev.Pretrained', checkpoint=None),  # of the whole segmentor
    data_preprocessor=dict(size=(512, 512), test_cfg=dict(size_divisor=32)),
    backbone=dict(
        _delete_=True,
        type='mmrev.RevBiFPN',
        arch='s0',
        out_indices=(0, 1, 2, 3),
        init_cfg=dict(type='mmrev.Pretrained', checkpoint=None, prefix='backbone.')))
