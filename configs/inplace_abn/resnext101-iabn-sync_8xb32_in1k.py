_base_ = './iabn_in1k.py'

model = dict(backbone=dict(type='mmrev.IABNResNeXt', depth=101, norm_cfg=dict(type='mmrev.InPlaceABNSync')))
