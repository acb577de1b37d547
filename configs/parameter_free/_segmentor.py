"""What the segmentors share: R50-hybrid of stride 8.

They start from random weights unless told otherwise: --cfg-options model.backbone.init_cfg.checkpoint=FILE
"""
segmentor = dict(
    pretrained=None,
    init_cfg=dict(type='mmrev.Pretrained', checkpoint=None),  # of the whole segmentor
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(
        _delete_=True,
        type='mmrev.PFResNet',
        depth=50,
        operation='hybrid',
        out_indices=(0, 1, 2, 3),
        strides=(1, 2, 1, 1),
        dilations=(1, 1, 2, 4),
        init_cfg=dict(type='mmrev.Pretrained', checkpoint=None, prefix='backbone.')))
