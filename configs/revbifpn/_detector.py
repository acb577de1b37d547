"""Common to the detectors on COCO: RevBiFPN with HRFPN."""
custom_imports = dict(imports=['mmrev'], allow_failed_imports=False)

channels = 256  # of the feature pyramid and the heads

detector = dict(
    init_cfg=dict(type='mmrev.Pretrained', checkpoint=None),  # of the whole detector
    backbone=dict(
        _delete_=True,
        type='mmrev.RevBiFPN',
        arch='s0',
        out_indices=(0, 1, 2, 3),
        norm_eval=None,  # True where init_cfg below names weights; say True yourself for model.init_cfg and load_from
        init_cfg=dict(type='mmrev.Pretrained', checkpoint=None, prefix='backbone.')),
    neck=dict(_delete_=True, type='mmrev.HRFPN', in_channels=[48, 64, 80, 160], out_channels=channels))
