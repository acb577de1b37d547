"""Known classes of other packages, by name, so that none of them is imported."""
from typing import Dict

# Kinds of modules whose forward is known, by the full name of that forward.
SEQUENTIAL, CONV_MODULE, RESIDUAL_BLOCK, STEM = 'sequential', 'conv module', 'residual block', 'stem'
SPLIT_ATTENTION, DENSE_LAYER, SHUFFLE_UNIT = 'split attention', 'dense layer', 'shuffle unit'
FORWARDS: Dict[str, str] = {
    'torch.nn.modules.container.Sequential.forward': SEQUENTIAL,
    **dict.fromkeys(['mmcv.cnn.bricks.conv_module.ConvModule.forward',
                     'mmrev.models.blocks.mbconv.ConvNormAct.forward'], CONV_MODULE),
    **{f'{package}.{block}.forward': RESIDUAL_BLOCK for block in ('BasicBlock', 'Bottleneck') for package in (
        'mmdet.models.backbones.resnet', 'mmpretrain.models.backbones.resnet', 'mmseg.models.backbones.resnet',
        'torchvision.models.resnet')},
    'mmpretrain.models.backbones.seresnet.SEBottleneck.forward': RESIDUAL_BLOCK,
    'mmpretrain.models.backbones.densenet.DenseLayer.forward': DENSE_LAYER,
    'mmpretrain.models.backbones.shufflenet_v1.ShuffleUnit.forward': SHUFFLE_UNIT,
    **{f'{package}.models.backbones.{block}.forward': kind for package in ('mmdet', 'mmpretrain') for block, kind in (
        ('res2net.Bottle2neck', RESIDUAL_BLOCK), ('resnest.Bottleneck', RESIDUAL_BLOCK),
        ('resnest.SplitAttentionConv2d', SPLIT_ATTENTION))},
    **dict.fromkeys([
        'mmdet.models.backbones.resnet.ResNet.forward', 'mmdet.models.backbones.regnet.RegNet.forward',
        'mmpretrain.models.backbones.resnet.ResNet.forward', 'mmpretrain.models.backbones.regnet.RegNet.forward',
        'mmpretrain.models.backbones.resnet_cifar.ResNet_CIFAR.forward', 'mmseg.models.backbones.resnet.ResNet.forward',
        'torchvision.models.resnet.ResNet.forward',
    ], STEM),
}
# Convolutions with their own forward, which is linear in the weight as usual.
CONVOLUTIONS = ('mmcv.cnn.bricks.wrappers', 'mmcv.cnn.bricks.conv2d_adaptive_padding', 'mmcv.ops.deform_conv',
                'mmcv.ops.modulated_deform_conv')
# Modules with activations.
ACTIVATIONS = ('torch.nn.modules.activation', 'mmcv.cnn.bricks.activation', 'mmcv.cnn.bricks.swish',
               'mmcv.cnn.bricks.hswish', 'mmcv.cnn.bricks.hsigmoid')
