_base_ = './revvit_in1k.py'

model = dict(backbone=dict(arch='deit-base', drop_path_rate=0.2), head=dict(in_channels=1536))
optim_wrapper = dict(optimizer=dict(weight_decay=0.1), clip_grad=dict(max_norm=2.0))
