"""Convert networks with batch norms to InPlace-ABN with the same function, and back."""
from collections import Counter
from typing import Dict, List, NamedTuple, Optional, Set

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmrev.layers.inplace_abn.activations import get_activation
from mmrev.layers.inplace_abn.batch_norm_act import BatchNormAct
from mmrev.layers.inplace_abn.modules import ABN, BatchStatistics, InPlaceABN, InPlaceABNSync

from .find import ACTIVATED, BATCH_NORMS, Pair, Unit, is_activation, is_known, overwritten, units
from .residual import ResidualBlock, activated_class, plain_class
from .sync import replace


class Conversion(NamedTuple):
    """The result of :func:`convert_batchnorm`; ``print`` shows it.

    Attributes:
        converted: Activation of each new layer, by the name of the layer.
        kept: Reason why a batch norm was not converted, by name.
        changed: Names of layers whose ReLU became a leaky ReLU, which changes the function.
        folded: Channels whose sign moved into the convolution before the norm, by name.
        small: Channels with ``|weight| <= eps``, whose scale became ``eps``, by name.
    """
    converted: Dict[str, str]
    kept: Dict[str, str]
    changed: List[str]
    folded: Dict[str, List[int]]
    small: Dict[str, List[int]]

    def __str__(self) -> str:
        lines = [f'{len(self.converted)} batch norms are InPlace-ABN now, {len(self.kept)} were left alone']
        if self.changed:
            lines.append(f'another function: ReLU became leaky ReLU in {len(self.changed)}: {_listed(self.changed)}')
        if self.folded:
            lines.append(f'negative weights folded into the convolutions before {len(self.folded)}: '
                         f'{_listed(self.folded)}')
        for name, channels in self.small.items():
            lines.append(f'{name}: |weight| <= eps in {_channels(channels)}; the scale is eps there')
        reasons: Dict[str, List[str]] = {}
        for name, reason in self.kept.items():
            reasons.setdefault(reason, []).append(name)
        lines += [f'left alone, {reason}: {_listed(names)}' for reason, names in reasons.items()]
        return '\n'.join(lines)


def convert_batchnorm(model: nn.Module, relu: Optional[str] = None, slope: float = 0.01) -> Conversion:
    """Convert batch norms and the activations after them to :class:`InPlaceABN`, in place, with the same function.

    It converts ``torch.nn.Sequential``, mmcv's ``ConvModule``, and the residual blocks and stems of the ResNets of
    mmdet, mmpretrain and torchvision, including subclasses that inherit their forward (ResNeXt, blocks of RegNet and
    HRNet) and add no methods that might use the norms (as DetectoRS does); also the blocks of SE-ResNet, ResNeSt and
    Res2Net, and the layers of DenseNet. Everything else stays unchanged and is listed. Parameters remain the same
    objects under the same names, so an existing optimizer remains valid. ``SyncBatchNorm`` becomes
    :class:`InPlaceABNSync`. Load weights of the model with batch norms before the conversion, not after it. The
    momentum of an optimizer is not adapted to folded signs.

    The scale of the new layers is ``|weight| + eps``. So ``eps`` is subtracted from the absolute weights, and the sign
    of a negative weight moves into the convolution whose only consumer is the norm, and into the running mean. Whether
    a norm uses running statistics is determined in training mode, where ``norm_eval`` and frozen stages take effect.
    With running statistics ReLU is exact; with batch statistics it cannot be inverted.

    Args:
        model: Changed in place.
        relu: ``'leaky'`` replaces each ReLU after batch statistics by a leaky ReLU, which changes the function; with
            ``None`` such pairs are not converted.
        slope: Negative slope of the leaky ReLUs.

    Returns:
        The converted norms, and those that were not converted, with the reasons.

    Raises:
        ValueError: If ``relu`` is unknown, or if the slope has no inverse.
    """
    if relu not in (None, 'leaky'):
        raise ValueError(f"`relu` must be None or 'leaky'; got {relu!r}")
    get_activation('leaky_relu', slope)
    conversion = Conversion({}, {}, [], {}, {})
    names = {m: name for name, m in model.named_modules()}
    plan = _Plan(model, slope if relu else None)
    for unit in list(units(model)):
        reasons = {_path(pair, names): plan.obstacle(pair) for pair in unit.pairs}
        obstacle = next((name for name, reason in reasons.items() if reason), None)
        if obstacle is None:
            _convert(unit, names, plan, conversion)
        else:
            conversion.kept.update({name: reason or f'in one residual block with {obstacle}, which was left alone'
                                    for name, reason in reasons.items()})
    for name, m in model.named_modules():
        if isinstance(m, BATCH_NORMS) and not isinstance(m, BatchStatistics):
            conversion.kept.setdefault(name, 'in a module of an unknown kind')
    return conversion


def to_batchnorm(model: nn.Module) -> nn.Module:
    """Convert activated norms back to batch norms and activations of PyTorch, in place, with the same function.

    Use it for export, and for tools that do not know these layers. Modules that :func:`convert_batchnorm` converted get
    back their classes and names; any other layer with an activation becomes a :class:`BatchNormAct`.

    Args:
        model: Changed in place, unless it is an activated norm itself.

    Returns:
        ``model``, or its replacement.
    """
    for m in list(model.modules()):
        if isinstance(m, ResidualBlock):
            m.__class__ = plain_class(type(m))
    return replace(replace(model, _Moved, lambda moved: moved.activation), ABN, _to_batchnorm)


def activated_twice(model: nn.Module) -> Dict[str, str]:
    """Find activations that follow a norm which already includes one, or that would overwrite its output.

    Args:
        model: The model; the search covers what :func:`convert_batchnorm` converts.

    Returns:
        Names of the activations by the names of the norms.
    """
    names = {m: name for name, m in model.named_modules()}
    found = {}
    for unit in units(model, ACTIVATED):
        for pair in unit.pairs:
            act, norm = pair.activation, pair.module
            follows = act is not None and not isinstance(act, nn.Identity) and is_activation(act)
            overwrites = isinstance(norm, InPlaceABN) and getattr(act, 'inplace', False)
            if follows and (norm.activation != 'identity' or overwrites):
                found[_path(pair, names)] = names[act]
    return found


class _Moved(nn.Identity):
    """Placeholder for an activation that the norm before it now includes."""

    def __init__(self, activation: nn.Module):
        super().__init__()
        self.__dict__['activation'] = activation  # not a child: it does nothing here

    def extra_repr(self) -> str:
        return f'{type(self.activation).__name__} is in the norm'


class _Plan:
    """What must be known about the whole model before any of it changes."""

    def __init__(self, model: nn.Module, slope: Optional[float]):
        self._slope = slope
        self._uses = Counter(id(x) for m in model.modules()
                             for held in (m._modules, m._parameters, m._buffers) for x in held.values())
        self._by_batch = _normalising_by_batch(model)
        self._overwritten = overwritten(model)
        self._replaced = {m for owner in model.modules() if 'forward' in owner.__dict__ for m in owner.modules()}

    def obstacle(self, pair: Pair) -> Optional[str]:
        """Why a pair cannot be converted; empty if it can."""
        norm, act = pair.module, pair.activation
        if not is_known(norm):
            return f'a {type(norm).__name__} is not a known batch norm'
        if pair.obstacle:
            return pair.obstacle
        if norm in self._replaced or getattr(pair.owner, 'efficient_conv_bn_eval_forward', None):
            return 'the forward around it was replaced, as `efficient_conv_bn_eval` does'
        own = [t for t in (norm, *norm._parameters.values(), *norm._buffers.values()) if t is not None]
        if any(self._uses[id(t)] > 1 for t in own):
            return 'it, or one of its tensors, is used in several places'
        if set(norm._parameters) != {'weight', 'bias'} or norm._forward_pre_hooks or hasattr(norm, 'parametrizations'):
            return 'its parameters are pruned or parametrised'
        if norm.eps <= 0:
            return 'its `eps` is not positive'
        if act is not None and (act._forward_hooks or act._forward_pre_hooks or act._backward_hooks):
            return 'its activation has hooks'
        if act in self._overwritten:
            return 'the module after its activation overwrites its output in place'
        if act is not None and not _held(act):
            return f'what follows it, a {type(act).__name__}, is not an invertible activation'
        if isinstance(act, nn.ReLU) and norm in self._by_batch and self._slope is None:
            return "a ReLU after statistics of the batch has no inverse (`relu='leaky'` makes it leaky)"
        negative = _negative(norm)
        why = negative and self._cannot_fold(pair)
        return f'the negative sign of {_channels(negative)} cannot be folded: {why}' if why else None

    def _cannot_fold(self, pair: Pair) -> Optional[str]:
        conv = pair.conv
        if conv is None:
            return 'no convolution directly precedes it'
        if any(self._uses[id(x)] > 1 for x in (conv, *conv._parameters.values()) if x is not None):
            return 'the convolution before it has other consumers'
        if conv.out_channels != pair.module.num_features:
            return 'the convolution before it has other channels'
        if conv._forward_hooks or conv._forward_pre_hooks or hasattr(conv, 'parametrizations'):
            return 'the convolution before it has hooks or a parametrisation'
        return None

    def leaky(self, unit: Unit) -> bool:
        """Whether the ReLUs of a unit, which may be one module, must become leaky."""
        return any(isinstance(pair.activation, nn.ReLU) and pair.module in self._by_batch for pair in unit.pairs)

    def leaky_form(self, act: nn.Module) -> nn.Module:
        return nn.LeakyReLU(self._slope, inplace=act.inplace)


def _convert(unit: Unit, names: Dict[nn.Module, str], plan: _Plan, conversion: Conversion) -> None:
    leaky = plan.leaky(unit)
    for pair in unit.pairs:
        name, norm, act = _path(pair, names), pair.module, pair.activation
        if leaky and isinstance(act, nn.ReLU):
            act = plan.leaky_form(act)
            conversion.changed.append(name)
        for noted, channels in ((conversion.folded, _negative(norm)), (conversion.small, _small(norm))):
            if channels:
                noted[name] = channels
        if _negative(norm):
            _fold_sign(norm, pair.conv)
        layer = _activated(norm, act)
        pair.owner._modules[pair.norm] = layer
        if pair.place is not None:
            pair.owner._modules[pair.place] = _Moved(act)
        conversion.converted[name] = str(get_activation(layer.activation, layer.activation_param))
    if unit.block is not None:
        if leaky:
            unit.block.relu = plan.leaky_form(unit.block.relu)
        unit.block.__class__ = activated_class(type(unit.block))


def _held(act: nn.Module) -> Optional[tuple]:
    """Name and parameter of an activation that a norm can include."""
    kind = type(act)
    if kind is nn.ReLU:
        return 'relu', None
    if kind is nn.LeakyReLU and act.negative_slope > 0:
        return 'leaky_relu', act.negative_slope
    if kind is nn.ELU and act.alpha > 0:
        return 'elu', act.alpha
    return ('identity', None) if kind is nn.Identity else None


def _normalising_by_batch(model: nn.Module) -> Set[nn.Module]:
    """The batch norms that use batch statistics when the model is in training mode."""
    flags = {m: m.training for m in model.modules()}
    model.train()
    found = {m for m in flags if isinstance(m, BATCH_NORMS) and (m.training or m.running_mean is None)}
    for m, training in flags.items():
        m.training = training
    return found


def _negative(norm: nn.Module) -> List[int]:
    return [] if norm.weight is None else (norm.weight < 0).nonzero().flatten().tolist()


def _small(norm: nn.Module) -> List[int]:
    return [] if norm.weight is None else (norm.weight.abs() <= norm.eps).nonzero().flatten().tolist()


@torch.no_grad()
def _fold_sign(norm: nn.Module, conv: nn.Module) -> None:
    sign = torch.where(norm.weight < 0, -1., 1.).to(norm.weight)
    norm.weight *= sign
    if norm.running_mean is not None:
        norm.running_mean *= sign
    if getattr(conv, 'bias', None) is not None:
        conv.bias *= sign.to(conv.bias)
    weight = conv.weight  # (out, in / groups, ...)
    if conv.transposed:  # (in, out / groups, ...)
        weight = weight.unflatten(0, (conv.groups, -1)).transpose(1, 2)  # (groups, out / groups, in / groups, ...)
        sign = sign.view(conv.groups, -1)
    weight *= sign.view(*sign.shape, *[1] * (weight.ndim - sign.ndim)).to(weight)


def _activated(norm: nn.Module, act: Optional[nn.Module]) -> InPlaceABN:
    """A layer with the parameters, buffers and hooks of a batch norm, and ``eps`` subtracted from the weight."""
    sync = isinstance(norm, nn.SyncBatchNorm)
    name, param = _held(act) if act is not None else ('identity', None)
    layer = (InPlaceABNSync if sync else InPlaceABN)(
        norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, name, param, device='meta',
        **dict(group=norm.process_group) if sync else {})
    layer.rewritten = type(norm)  # the activation is used elsewhere too, see `to_batchnorm`
    _hand_over(norm, layer)
    with torch.no_grad():
        if norm.affine:
            norm.weight.abs_().sub_(norm.eps).clamp_(min=0)
    return layer.train(norm.training)


def _to_batchnorm(layer: ABN) -> nn.Module:
    rewritten = getattr(layer, 'rewritten', None)
    arguments = (layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
    if rewritten:
        new = norm = rewritten.__new__(rewritten)  # its own constructor may take other arguments
        (nn.SyncBatchNorm if issubclass(rewritten, nn.SyncBatchNorm) else _BatchNorm).__init__(norm, *arguments)
    else:
        new = BatchNormAct(*arguments, layer.activation, layer.activation_param)
        norm = new.norm
    _hand_over(layer, norm)
    with torch.no_grad():
        if norm.affine:
            norm.weight.abs_().add_(norm.eps)
    new.train(layer.training and layer.statistics.training)
    if rewritten and issubclass(rewritten, nn.SyncBatchNorm):
        norm.process_group = layer.group
    return norm if layer.activation == 'identity' else new


def _hand_over(old: nn.Module, new: nn.Module) -> None:
    """Pass on parameters, buffers and hooks, the same objects."""
    new._parameters.update(old._parameters)
    new._buffers.update(old._buffers)
    new.__dict__.update({name: value for name, value in old.__dict__.items() if 'hooks' in name})


def _path(pair: Pair, names: Dict[nn.Module, str]) -> str:
    return f'{names[pair.owner]}.{pair.norm}'.lstrip('.')


def _channels(channels: List[int]) -> str:
    return f'channel{"s" if len(channels) > 1 else ""} {_listed(channels)}'


def _listed(items) -> str:
    items = [str(item) for item in items]
    return ', '.join(items[:8]) + (f', ... ({len(items)})' if len(items) > 8 else '')
