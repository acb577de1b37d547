"""Common to the detectors on COCO: R50-hybrid and FPN."""
custom_imports = dict(imports=['mmrev'], allow_failed_imports=False)

detector = dict(
    init_cfg=dict(type='mmrev.Pretrained', checkpoint=None),  # of the whole detector
    backbone=dict(
        _delete_=True,
        type='mmrev.PFResNet',
        depth=50,
        operation='hybrid',
        out_indices=(0, 1, 2, 3),
        frozen_stages=-1,  # 1 with weights, as mmdet has it, keeps the stem and the first stage as they are
        norm_eval=None,  # True where init_cfg below names weights; say True yourself for model.init_cfg and load_from
        init_cfg=dict(type='mmrev.Pretrained', checkpoint=None, prefix='backbone.')),
    neck=dict(in_channels=[256, 512, 1024, 2048]))
