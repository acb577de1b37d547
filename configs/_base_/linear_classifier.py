"""A linear layer on the mean of the last level, for ten classes. The backbone is left to the configs."""

model = dict(
    type='mmpretrain.ImageClassifier',
    neck=dict(type='mmpretrain.GlobalAveragePooling'),
    head=dict(
        type='mmpretrain.LinearClsHead',
        num_classes=10,
        loss=dict(type='mmpretrain.CrossEntropyLoss', loss_weight=1.0),
        topk=(1, )),
    init_cfg=dict(type='mmrev.Pretrained', checkpoint=None))  # of the whole classifier
