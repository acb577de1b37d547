"""AdamW for 300 epochs of 2,048 images a step: 70 epochs of warm-up, then a cosine; no decay of norms and biases.

mmpretrain's file is called after 1,024 images, and has the rate for 2,048.
"""
_base_ = 'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_revvit.py'

auto_scale_lr = dict(base_batch_size=2048)
