"""Common to the detectors on COCO: RevViT-B, ViTDet's simple feature pyramid, and AdamW."""
custom_imports = dict(imports=['mmrev'], allow_failed_imports=False)

detector = dict(
    init_cfg=dict(type='mmrev.Pretrained', checkpoint=None),  # of the whole detector
    backbone=dict(
        _delete_=True,
        type='mmrev.RevViT',
        arch='deit-base',
        img_size=224,
        patch_size=16,
        drop_path_rate=0.1,
        out_type='featmap',
        init_cfg=dict(type='mmrev.Pretrained', checkpoint=None, prefix='backbone.')),
    neck=dict(_delete_=True, type='mmrev.SimpleFeaturePyramid', in_channels=[1536], out_channels=256, num_outs=5))

detector_optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.1),
    paramwise_cfg=dict(
        norm_decay_mult=0.,
        custom_keys={'.pos_embed': dict(decay_mult=0.)}))
