"""ImageNet-1k with mmpretrain's augmentation for Swin at 224 pixels, 256 images a step."""
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py'

batch_size = 256

data_preprocessor = dict(type='mmpretrain.ClsDataPreprocessor')  # children of `mmrev::` have its scope
train_dataloader = dict(batch_size=batch_size)
val_dataloader = dict(batch_size=batch_size)
test_dataloader = val_dataloader
