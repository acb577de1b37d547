"""Common to the detectors on COCO: Rev-Swin-T, FPN, and AdamW."""
custom_imports = dict(imports=['mmrev'], allow_failed_imports=False)

detector = dict(
    init_cfg=dict(type='mmrev.Pretrained', checkpoint=None),  # of the whole detector
    backbone=dict(
        _delete_=True,
        type='mmrev.RevSwin',
        arch='tiny',
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.2,
        init_cfg=dict(type='mmrev.Pretrained', checkpoint=None, prefix='backbone.')),
    neck=dict(in_channels=[96, 192, 384, 1536]))

detector_optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.,
        custom_keys={'relative_position_bias_table': dict(decay_mult=0.)}))
