"""R50-hybrid on CIFAR-10 by mmpretrain's recipe for ResNet-50 (8x16 images, 200 epochs)."""
_base_ = [
    '../_base_/linear_classifier.py',
    'mmpretrain::_base_/datasets/cifar10_bs16.py',
    'mmpretrain::_base_/schedules/cifar10_bs128.py',
    'mmpretrain::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmrev'], allow_failed_imports=False)

data_preprocessor = dict(type='mmpretrain.ClsDataPreprocessor')  # children of `mmrev::` have its scope
model = dict(
    backbone=dict(type='mmrev.PFResNet', depth=50, operation='hybrid', small_stem=True, out_indices=(3, )),
    head=dict(in_channels=2048))
