"""The same with statistics over all processes.

`tools/dist_train.sh configs/inplace_abn/resnet18-iabn-sync_digits.py 2`
"""
_base_ = './resnet18-iabn_digits.py'

model = dict(backbone=dict(norm_cfg=dict(type='mmrev.InPlaceABNSync')))
train_dataloader = dict(batch_size=32)  # of each of two processes
