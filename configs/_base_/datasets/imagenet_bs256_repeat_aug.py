"""ImageNet-1k with DeiT's augmentation: mmpretrain's for Swin at 224 pixels, and each image three times a step."""
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py'

batch_size = 256

data_preprocessor = dict(type='mmpretrain.ClsDataPreprocessor')  # children of `mmrev::` have its scope
train_dataloader = dict(
    batch_size=batch_size, sampler=dict(_delete_=True, type='mmpretrain.RepeatAugSampler', shuffle=True))
val_dataloader = dict(batch_size=batch_size)
test_dataloader = val_dataloader
