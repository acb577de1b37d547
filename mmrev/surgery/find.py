"""Find the norms in known kinds of modules, the convolutions before them, and the activations after them."""
import inspect
import re
from typing import Iterator, List, NamedTuple, Optional, Set, Tuple, Union

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.lazy import LazyModuleMixin

from mmrev.layers.inplace_abn.batch_norm_act import BatchNormAct
from mmrev.layers.inplace_abn.modules import ABN, BatchStatistics

from . import hosts
from .residual import depth, joins_shortcut, norm_name

Kinds = Union[type, Tuple[type, ...]]
BATCH_NORMS: Kinds = (_BatchNorm, )
ACTIVATED: Kinds = (ABN, BatchNormAct)
# Modules that read the output of a norm without changing it.
_READERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear,
            nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d,
            nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.Upsample)
# Methods that a subclass of a known class may define without using its norms differently: those that build it.
_BUILDS = re.compile('__init__|__repr__|train|get_layer_depth|_?(make|init|freeze|load|del)_.*')
_UNKNOWN_READER = 'an unknown module follows it, which might change its output in place'


class Pair(NamedTuple):
    """A norm, by its name in its owner, with the modules before and after it."""
    owner: nn.Module
    norm: str
    conv: Optional[nn.Module] = None
    activation: Optional[nn.Module] = None
    place: Optional[str] = None  # name of the activation in its owner, if nothing else uses it there
    obstacle: Optional[str] = None

    @property
    def module(self) -> nn.Module:
        return self.owner._modules[self.norm]


class Unit(NamedTuple):
    """Pairs that are converted all together or not at all."""
    pairs: List[Pair]
    block: Optional[nn.Module] = None


def units(model: nn.Module, kinds: Kinds = BATCH_NORMS) -> Iterator[Unit]:
    """Yield the pairs with norms of these kinds in all modules whose forward is known."""
    taken: Set[nn.Module] = set()
    read = _read_by_the_next(model)
    for m in list(model.modules()):
        find = _KNOWN.get(_kind(m))
        for unit in find(m, kinds) if find else ():
            if m in read:
                unit = unit._replace(pairs=[pair._replace(obstacle=None) for pair in unit.pairs])
            if unit.pairs and not any(pair.module in taken for pair in unit.pairs):
                own = None if find is _in_sequential else _own_method(type(m))
                yield unit._replace(pairs=[pair._replace(obstacle=own) for pair in unit.pairs]) if own else unit
            taken.update(pair.module for pair in unit.pairs)


def _kind(m: nn.Module) -> Optional[str]:
    """The kind of module, by its forward."""
    return hosts.FORWARDS.get(f'{type(m).forward.__module__}.{type(m).forward.__qualname__}')


def _read_by_the_next(model: nn.Module) -> Set[nn.Module]:
    """Modules whose output goes to one that does not change it, and to no other, as in a ``Sequential``."""
    found: Set[nn.Module] = set()
    for m in model.modules():
        children = [child for child in m._modules.values() if type(child) is not nn.Identity]
        if _kind(m) == hosts.SEQUENTIAL:
            found.update(child for child, after in zip(children, children[1:]) if _reads(after))
        elif _kind(m) == hosts.SHUFFLE_UNIT:
            found.add(m.depthwise_conv3x3_bn)  # which is shuffled
    return found


def _reads(m: nn.Module) -> bool:
    if _kind(m) == hosts.CONV_MODULE:
        return m.order[0] == 'conv'
    if _kind(m) == hosts.SEQUENTIAL and m._modules:
        return _reads(next(iter(m._modules.values())))
    return isinstance(m, _READERS)


def _own_method(kind: type) -> Optional[str]:
    """A method that a class adds to the one with the known forward, and that may use the norms differently."""
    known = next(c for c in kind.__mro__ if 'forward' in c.__dict__)
    for c in kind.__mro__:
        for name, value in c.__dict__.items() if c not in known.__mro__ else ():
            if (inspect.isroutine(value) or isinstance(value, property)) and not _BUILDS.fullmatch(name):
                return f'`{c.__name__}.{name}` may use it in an unknown way'
    return None


def _in_sequential(m: nn.Sequential, kinds: Kinds) -> Iterator[Unit]:
    children = list(m._modules.items())
    for i, (name, child) in enumerate(children):
        if not isinstance(child, kinds):
            continue
        conv = _feeding(children[i - 1][1] if i else None)
        place, after = children[i + 1] if i + 1 < len(children) else (None, None)
        if all(type(c) is nn.Identity for _, c in children[i + 1:]):
            pair = Pair(m, name, conv, obstacle=_UNKNOWN_READER)
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
        yield Unit([Pair(m, m.norm_name, conv, obstacle=_UNKNOWN_READER)])


def _in_block(m: nn.Module, kinds: Kinds) -> Iterator[Unit]:
    *inner, last = (i for i in range(1, depth(m) + 1) if hasattr(m, norm_name(m, i)))
    pairs = [Pair(m, norm_name(m, i), _feeding(getattr(m, f'conv{i}')), m.relu) for i in inner]
    pairs += [Pair(m.bns, str(i), _feeding(conv), m.relu) for i, conv in enumerate(getattr(m, 'convs', ()))]
    act = m.relu if joins_shortcut(m) else None
    pairs.append(Pair(m, norm_name(m, last), _feeding(getattr(m, f'conv{last}')), act))
    if isinstance(m.downsample, nn.Sequential) and len(m.downsample):
        (*_, before), (name, norm) = [(None, None), *m.downsample._modules.items()][-2:]
        if isinstance(norm, kinds):
            pairs.append(Pair(m.downsample, name, _feeding(before)))
    yield Unit([pair for pair in pairs if isinstance(pair.module, kinds)] if kinds is ACTIVATED else pairs, m)


def _in_stem(m: nn.Module, kinds: Kinds) -> Iterator[Unit]:
    name = norm_name(m, 1)
    if isinstance(m._modules.get(name), kinds) and 'relu' in m._modules:  # a deep stem is a Sequential
        yield Unit([Pair(m, name, _feeding(m.conv1), m.relu, 'relu')])


def _in_split_attention(m: nn.Module, kinds: Kinds) -> Iterator[Unit]:
    yield _sharing(m, 'relu', kinds, Pair(m, m.norm0_name, _feeding(m.conv)), Pair(m, m.norm1_name, _feeding(m.fc1)))


def _in_dense_layer(m: nn.Module, kinds: Kinds) -> Iterator[Unit]:
    yield _sharing(m, 'act', kinds, Pair(m, 'norm1'), Pair(m, 'norm2', _feeding(m.conv1)))


def _sharing(m: nn.Module, activation: str, kinds: Kinds, *pairs: Pair) -> Unit:
    """Norms before one activation, which has no other use: they are converted together."""
    found = [pair._replace(activation=m._modules[activation], place=activation) for pair in pairs
             if isinstance(pair.module, kinds)]
    return Unit(found if len(found) == len(pairs) or kinds is ACTIVATED else [])


_KNOWN = {hosts.SEQUENTIAL: _in_sequential, hosts.CONV_MODULE: _in_conv_module, hosts.RESIDUAL_BLOCK: _in_block,
          hosts.STEM: _in_stem, hosts.SPLIT_ATTENTION: _in_split_attention, hosts.DENSE_LAYER: _in_dense_layer}


def _feeding(m: Optional[nn.Module]) -> Optional[nn.Module]:
    """A convolution whose output changes sign with its weight and bias, channel by channel, or None."""
    plain = _forwards(type(m)) in _PLAIN_CONVOLUTIONS
    return m if plain or type(m).__module__ in hosts.CONVOLUTIONS and hasattr(m, 'out_channels') else None


def _forwards(kind: type) -> tuple:
    return getattr(kind, 'forward', None), getattr(kind, '_conv_forward', None)


_PLAIN_CONVOLUTIONS = [_forwards(kind) for kind in (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d,
                                                    nn.ConvTranspose2d, nn.ConvTranspose3d)]


def overwritten(model: nn.Module) -> Set[nn.Module]:
    """Modules whose output is changed in place by the next module of their or an enclosing ``Sequential``."""
    found: Set[nn.Module] = set()
    for m in model.modules():  # parents come before their children
        inplace = m in found
        for child in reversed(m._modules.values()) if type(m).forward is nn.Sequential.forward else ():
            if inplace:  # including the last activation of a ConvModule or a residual block
                found.update((child, getattr(child, 'activate', child), getattr(child, 'relu', child)))
            if type(child) is not nn.Identity:
                begins = next(leaf for leaf in child.modules() if not leaf._modules)
                inplace = getattr(begins, 'inplace', False)
    return found


def is_known(norm: nn.Module) -> bool:
    """Whether it is a batch norm that computes the same as PyTorch's."""
    if isinstance(norm, (LazyModuleMixin, BatchStatistics)):
        return False
    return type(norm).forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward)


def is_activation(m: nn.Module) -> bool:
    return type(m).__module__ in hosts.ACTIVATIONS
