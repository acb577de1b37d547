"""ImageNet-1k with DeiT's augmentation: mmpretrain's for Swin at 224 pixels, and each image three times a step."""
_base_ = './imagenet_bs256_swin_224.py'

train_dataloader = dict(sampler=dict(_delete_=True, type='mmpretrain.RepeatAugSampler', shuffle=True))
