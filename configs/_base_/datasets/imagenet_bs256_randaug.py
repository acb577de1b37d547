"""ImageNet-1k with RandAugment, color jitter and random erasing at 224 pixels, 256 images a step.

mmpretrain's file is called after 128 images, and has 256.
"""
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs128_revvit_224.py'

data_preprocessor = dict(type='mmpretrain.ClsDataPreprocessor')  # children of `mmrev::` have its scope
train_dataloader = dict(batch_size=256)
