"""AdamW for 300 epochs of 1,024 images a step, as DeiT: five epochs of warm-up, then a cosine; no decay of norms."""
_base_ = 'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py'

warmup_epochs = 5

optim_wrapper = dict(paramwise_cfg=dict(_delete_=True, norm_decay_mult=0., bias_decay_mult=0., custom_keys=dict(
    pos_embed=dict(decay_mult=0.))))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, begin=0, end=warmup_epochs, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=warmup_epochs),
]
