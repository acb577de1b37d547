"""Where norms stand in modules of a kind that is known, what feeds them and which activation follows."""
from typing import Iterator, List, NamedTuple, Optional, Set, Tuple, Union

from torch import nn

from .modules import ABN
from .residual import depth, joins_shortcut, norm_name

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
Kinds = Union[type, Tuple[type, ...]]
# What reads a norm's output and leaves it as it is.
_READERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear,
            nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d,
            nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.Upsample)
_UNKNOWN_READER = 'what follows it is not known and might change its output in place'
_DEFORMABLE = ('DeformConv2d', 'ModulatedDeformConv2d')  # mmcv's, linear in their weight like any convolution


class Pair(NamedTuple):
    """A norm, by its name in its owner, with what stands before and after it."""
    owner: nn.Module
    norm: str
    conv: Optional[nn.Module] = None
    activation: Optional[nn.Module] = None
    place: Optional[str] = None  # of the activation in its owner, if nothing else uses it there
    obstacle: Optional[str] = None

    @property
    def module(self) -> nn.Module:
        return self.owner._modules[self.norm]


class Unit(NamedTuple):
    """Pairs that are converted together or not at all."""
    pairs: List[Pair]
    block: Optional[nn.Module] = None


def units(model: nn.Module, kinds: Kinds = BATCH_NORMS) -> Iterator[Unit]:
    """The pairs, with norms of those kinds, of all modules whose forward is known, by the full name of that forward."""
    taken: Set[nn.Module] = set()
    for m in list(model.modules()):
        find = _KNOWN.get(f'{type(m).forward.__module__}.{type(m).forward.__qualname__}')
        for unit in find(m, kinds) if find else ():
            if unit.pairs and not any(pair.module in taken for pair in unit.pairs):
                yield unit
            taken.update(pair.module for pair in unit.pairs)


def _in_sequential(m: nn.Sequential, kinds: Kinds) -> Iterator[Unit]:
    children = list(m._modules.items())
    for i, (name, child) in enumerate(children):
        if not isinstance(child, kinds):
            continue
        conv = _feeding(children[i - 1][1] if i else None)
        place, after = children[i + 1] if i + 1 < len(children) else (None, None)
        if after is None:
            pair = Pair(m, name, obstacle=_UNKNOWN_READER)
        elif isinstance(after, _READERS):
            pair = Pair(m, name, conv)
        else:
            pair = Pair(m, name, conv, after, place)
        yield Unit([pair])


def _in_conv_module(m: nn.Module, kinds: Kinds) -> Iterator[Unit]:
    if not m.with_norm or not isinstance(m.norm, kinds):
        return
    layers = [layer for layer in m.order if layer != 'act' or m.with_activation]
    i = layers.index('norm')
    conv = _feeding(m.conv) if layers[i - 1:i] == ['conv'] and not m.with_spectral_norm else None
    after = layers[i + 1:i + 2]
    if after == ['act']:
        yield Unit([Pair(m, m.norm_name, conv, m.activate, 'activate')])
    elif after == ['conv']:
        yield Unit([Pair(m, m.norm_name, conv)])
    else:
        yield Unit([Pair(m, m.norm_name, obstacle=_UNKNOWN_READER)])


def _in_block(m: nn.Module, kinds: Kinds) -> Iterator[Unit]:
    *inner, last = range(1, depth(m) + 1)
    pairs = [Pair(m, norm_name(m, i), _feeding(getattr(m, f'conv{i}')), m.relu) for i in inner]
    act = m.relu if joins_shortcut(m) else None
    pairs.append(Pair(m, norm_name(m, last), _feeding(getattr(m, f'conv{last}')), act))
    if isinstance(m.downsample, nn.Sequential) and len(m.downsample):
        (*_, before), (name, norm) = [(None, None), *m.downsample._modules.items()][-2:]
        if isinstance(norm, kinds):
            pairs.append(Pair(m.downsample, name, _feeding(before)))
    yield Unit([pair for pair in pairs if isinstance(pair.module, kinds)] if kinds is ABN else pairs, m)


def _in_stem(m: nn.Module, kinds: Kinds) -> Iterator[Unit]:
    name = norm_name(m, 1)
    if isinstance(m._modules.get(name), kinds) and 'relu' in m._modules:  # a deep stem is a Sequential
        yield Unit([Pair(m, name, _feeding(m.conv1), m.relu, 'relu')])


_KNOWN = {
    'torch.nn.modules.container.Sequential.forward': _in_sequential,
    'mmcv.cnn.bricks.conv_module.ConvModule.forward': _in_conv_module,
    'mmrev.models.layers.mbconv.ConvNormAct.forward': _in_conv_module,
    **{f'{package}.{block}.forward': _in_block for block in ('BasicBlock', 'Bottleneck') for package in (
        'mmdet.models.backbones.resnet', 'mmpretrain.models.backbones.resnet', 'torchvision.models.resnet')},
    **dict.fromkeys([
        'mmdet.models.backbones.resnet.ResNet.forward', 'mmdet.models.backbones.regnet.RegNet.forward',
        'mmpretrain.models.backbones.resnet.ResNet.forward', 'mmpretrain.models.backbones.regnet.RegNet.forward',
        'mmpretrain.models.backbones.resnet_cifar.ResNet_CIFAR.forward', 'torchvision.models.resnet.ResNet.forward',
    ], _in_stem),
}


def _feeding(m: Optional[nn.Module]) -> Optional[nn.Module]:
    """A module whose output changes sign with its weight and bias, channel by channel; or nothing."""
    if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)):
        return m
    return m if any(kind.__name__ in _DEFORMABLE for kind in type(m).__mro__) else None


def is_activation(m: nn.Module) -> bool:
    return type(m).__module__ in ('torch.nn.modules.activation', 'mmcv.cnn.bricks.activation', 'mmcv.cnn.bricks.swish',
                                  'mmcv.cnn.bricks.hswish', 'mmcv.cnn.bricks.hsigmoid')
