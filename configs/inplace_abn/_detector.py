"""Common to the detectors on COCO: a ResNet-50 with InPlace-ABN, and FPN."""
custom_imports = dict(imports=['mmrev'], allow_failed_imports=False)

detector = dict(
    init_cfg=dict(type='mmrev.Pretrained', checkpoint=None),  # of the whole detector
    backbone=dict(
        _delete_=True,
        type='mmrev.IABNResNet',
        depth=50,
        out_indices=(0, 1, 2, 3),
        frozen_stages=-1,  # 1 with weights, as mmdet has it, keeps the stem and the first stage as they are
        norm_eval=None,  # True where init_cfg below names weights; say True yourself for model.init_cfg and load_from
        norm_cfg=dict(type='mmrev.InPlaceABNSync', activation='leaky_relu', activation_param=0.01),
        init_cfg=dict(type='mmrev.Pretrained', checkpoint=None, prefix='backbone.')),
    neck=dict(in_channels=[256, 512, 1024, 2048]))
