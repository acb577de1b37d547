"""CIFAR-10, 128 images a step."""
_base_ = 'mmpretrain::_base_/datasets/cifar10_bs16.py'

data_preprocessor = dict(type='mmpretrain.ClsDataPreprocessor')  # children of `mmrev::` have its scope
train_dataloader = dict(batch_size=128)
val_dataloader = dict(batch_size=128)
test_dataloader = val_dataloader
