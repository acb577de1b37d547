"""Published networks with InPlace-ABN (Mapillary, BSD 3-Clause): names and the weights of norms."""
import re
from typing import Any, Dict, List, Tuple

from torch import Tensor

from mmrev.problems import ProblemError

from ..complete import NORM, check_blocks, names_of, require
from ..family import Family, Request

_BLOCK = re.compile(r'mod(\d+)\.block(\d+)\.(.+)')
_DENSE = re.compile(r'mod(\d+)\.convs([13])\.(\d+)\.(bn|conv)\.(.+)')
_TRANSITION = re.compile(r'tra(\d+)\.(bn|conv)\.(.+)')
_STEM = re.compile(r'mod1\.((?:conv|bn)\d\..+)')
_SHORTCUT = (('proj_conv.', 'downsample.0.'), ('proj_bn.', 'downsample.1.'))  # stages of ResNet


def convert_state_dict(state_dict: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """Rename a published state dict for an mmpretrain classifier with a backbone of mmrev.

    Args:
        state_dict: Published weights of a ResNet, ResNeXt, WiderResNet or DenseNet, with or without classifier.

    Returns:
        The same tensors, named ``backbone.*`` and ``head.fc.*``.

    Raises:
        KeyError: If a key belongs to none of these networks.
    """
    rename = {'resnet': _resnet, 'pre_activation': _pre_activation, 'densenet': _densenet}[family(state_dict)]
    last = max([int(match.group(1)) for match in (re.match(r'mod(\d+)\.', key) for key in state_dict) if match] or [0])
    return {_convert_key(key, rename, last): value for key, value in state_dict.items()}


def check_complete(weights: Dict[str, Tensor]) -> None:
    """Check that a network has all its stages, and all weights of its stem, norms and blocks.

    Args:
        weights: Result of `convert_state_dict`.

    Raises:
        KeyError: If a weight is missing.
    """
    if any(key.startswith('backbone.layer') for key in weights):
        check_blocks(weights, 'backbone.layer{stage}.{number}', ['downsample'], first=1)
        bottleneck = 'backbone.layer1.0.conv3.weight' in weights
        needed = ['conv1.weight', *names_of('bn1', NORM)]
        for stage in range(1 if bottleneck else 2, 5):
            needed += [f'layer{stage}.0.downsample.0.weight', *names_of(f'layer{stage}.0.downsample.1', NORM)]
        needed += [f'layer{stage}.0.conv1.weight' for stage in range(1, 5)]
    elif any('.couplings.' in key for key in weights):
        check_blocks(weights, 'backbone.stages.{stage}.couplings.{number}')
        needed = ['stem.conv1.weight', *(f'stages.{i}.couplings.0.f.conv1.weight' for i in range(4)),
                  *(f'transitions.{i}.weight' for i in range(3)),
                  *(name for i in range(4) for name in names_of(f'norms.{i}', NORM))]
    else:
        third, first = r'residual\.(?:bn|conv)3', r'bn1'
        depths = check_blocks(weights, 'backbone.stages.{stage}.{number}', [third, first, 'projection'])
        number = 4 if 'backbone.stages.0.0.residual.conv3.weight' in weights else 6  # of ResNeXt, WiderResNet
        needed = ['stem.conv1.weight', *(f'stages.{i}.0.projection.weight' for i in range(number)),
                  *(name for i in range(number + 1) for name in names_of(f'norms.{i}', NORM))]
        needed += [name for i, depth in enumerate(depths) for n in range(1, depth)
                   for name in names_of(f'stages.{i}.{n}.bn1', NORM)]
    require(weights, [f'backbone.{name}' for name in needed])


def is_published_name(key: str) -> bool:
    """Whether a key is a published name of the body of the network."""
    return bool(re.match(r'mod\d+\.(block\d+\.|convs[13]\.\d+\.(bn|conv)\.)', key))


def family(state_dict: Dict[str, Tensor]) -> str:
    """``'resnet'``, ``'pre_activation'`` (ResNeXt, WiderResNet) or ``'densenet'``."""
    if any(_DENSE.fullmatch(key) for key in state_dict):
        return 'densenet'
    return 'resnet' if any('.convs.bn1.' in key for key in state_dict) else 'pre_activation'


def to_batch_norm(state_dict: Dict[str, Tensor], eps: float = 1e-5) -> Dict[str, Tensor]:
    """Convert the scale ``|weight| + eps`` of InPlace-ABN to the ``weight`` of a batch norm with the same function.

    Args:
        state_dict: Weights with published names.
        eps: ``eps`` of the norms.
    """
    return {key: value.abs() + eps if _is_norm_weight(state_dict, key) else value for key, value in state_dict.items()}


def fold_signs(state_dict: Dict[str, Tensor], eps: float = 1e-5) -> Tuple[Dict[str, Tensor], List[str]]:
    """Convert the ``weight`` of a batch norm to the scale ``|weight| + eps`` of InPlace-ABN with the same function.

    The sign of a channel moves into the convolution whose only consumer is the norm, and into the running mean. A
    weight closer to 0 than ``eps`` becomes ``eps``.

    Args:
        state_dict: Weights with published names.
        eps: ``eps`` of the norms.

    Returns:
        The new state dict, and the names of norms that keep negative weights because no such convolution exists.
    """
    result, left = dict(state_dict), []
    for key in [key for key in state_dict if _is_norm_weight(state_dict, key)]:
        weight, norm = state_dict[key], key.removesuffix('.weight')
        negative = weight < 0
        if bool(negative.any()):
            conv = _feeding_convolution(state_dict, norm)
            if conv is None:
                left.append(norm)
                continue
            sign = 1. - 2. * negative.to(weight)
            result[conv] = state_dict[conv] * sign.view(-1, *[1] * (state_dict[conv].ndim - 1))
            result[f'{norm}.running_mean'] = state_dict[f'{norm}.running_mean'] * sign
        result[key] = (weight.abs() - eps).clamp(min=0)
    return result, left


def _is_norm_weight(state_dict: Dict[str, Tensor], key: str) -> bool:
    return key.endswith('.weight') and f'{key.removesuffix("weight")}running_mean' in state_dict


def _feeding_convolution(state_dict: Dict[str, Tensor], norm: str):
    """Name of the weight of the convolution whose only consumer is this norm, or None.

    In a ResNet ``convs.bn1`` follows ``convs.conv1``. In pre-activation blocks the convolution of the same number
    follows the norm, so ``convs.bn2`` follows ``convs.conv1``. The other norms of these blocks, and those of a
    DenseNet's ``convs1``, take sums and concatenations.
    """
    path, _, name = norm.rpartition('.')
    if name == 'proj_bn':
        conv = f'{path}.proj_conv'
    elif path == 'mod1':
        conv = f'mod1.{name.replace("bn", "conv")}'
    elif path.endswith('.convs'):
        number = int(name.removeprefix('bn')) - (family(state_dict) == 'pre_activation')
        conv = f'{path}.conv{number}'
    elif '.convs3.' in norm:
        conv = f'{path.replace(".convs3.", ".convs1.")}.conv'
    else:
        return None
    return f'{conv}.weight' if f'{conv}.weight' in state_dict else None


def _convert_key(key: str, rename, last: int) -> str:
    if key.startswith('classifier.fc.'):
        return key.replace('classifier.', 'head.')
    ours = rename(key, last)
    if ours is None:
        raise KeyError(f'{key!r} is not a key of a published network with InPlace-ABN')
    return f'backbone.{ours}'


def _resnet(key: str, last: int):
    block, stem = _BLOCK.fullmatch(key), _STEM.fullmatch(key)
    if stem:
        return stem.group(1)
    if not block:
        return None
    stage, number, rest = int(block.group(1)) - 1, int(block.group(2)) - 1, block.group(3).removeprefix('convs.')
    for theirs, ours in _SHORTCUT:
        rest = rest.replace(theirs, ours)
    return f'layer{stage}.{number}.{rest}'


def _pre_activation(key: str, last: int):
    block, stem = _BLOCK.fullmatch(key), _STEM.fullmatch(key)
    if stem:
        return f'stem.{stem.group(1)}'
    if key.startswith('bn_out.'):
        return key.replace('bn_out', f'norms.{last - 1}')
    if not block:
        return None
    stage, number, rest = int(block.group(1)) - 2, int(block.group(2)) - 1, block.group(3)
    if number == 0 and rest.startswith('bn1.'):
        return rest.replace('bn1', f'norms.{stage}')
    return f'stages.{stage}.{number}.{rest.replace("convs.", "residual.").replace("proj_conv.", "projection.")}'


def _densenet(key: str, last: int):
    layer, transition, stem = _DENSE.fullmatch(key), _TRANSITION.fullmatch(key), _STEM.fullmatch(key)
    if stem:
        return f'stem.{stem.group(1)}'
    if key.startswith('bn_out.'):
        return key.replace('bn_out', f'norms.{last - 2}')
    if transition:
        part = 'norms' if transition.group(2) == 'bn' else 'transitions'
        return f'{part}.{int(transition.group(1)) - 2}.{transition.group(3)}'
    if not layer:
        return None
    stage, kernel, number, kind, rest = layer.groups()
    return f'stages.{int(stage) - 2}.couplings.{number}.f.{kind}{1 if kernel == "1" else 2}.{rest}'


def adapt(weights: Dict[str, Tensor], request: Request) -> Tuple[Dict[str, Tensor], Dict[str, Any]]:
    """Convert weights to the requested kind of norm with the same function; return them with metadata.

    The config alone determines the activation: weights trained with ReLU load into a network with leaky ReLU.

    Raises:
        ProblemError: If the file must be a published one and is not, or if a negative weight has a sign that no
            convolution can take.
    """
    model, file = request.model, request.file
    if model is None and not request.any_hash:
        raise ProblemError(f'`{file}` is none of the published files: its md5 is {request.md5}, and theirs are in '
                           'configs/inplace_abn/metafile.yml', 'Download it again; for weights of your own, trained '
                           'with the published code, add --any-hash')
    known = model and ('batch_norm' if '-stdbn_' in model.name else 'inplace_abn')
    if known and request.trained_with not in (None, known):
        raise ProblemError(f'`{file}` is {model.name}, which was trained with {known}', 'Leave out --trained-with')
    source = known or request.trained_with or 'inplace_abn'
    target = request.target or source
    left: List[str] = []
    if (source, target) == ('inplace_abn', 'batch_norm'):
        weights = to_batch_norm(weights)
    elif (source, target) == ('batch_norm', 'inplace_abn'):
        weights, left = fold_signs(weights)
    if left:
        raise ProblemError(
            f'{len(left)} norms of `{file}` have negative weights, which |weight| + eps of InPlace-ABN cannot '
            f'represent; their inputs are sums, so no convolution can absorb the sign: {", ".join(left[:3])} ...',
            "Keep batch norm: --for batch_norm, and norm_cfg=dict(type='mmrev.BatchNormAct') as in "
            'configs/inplace_abn/resnext101-stdbn_8xb32_in1k.py')
    return weights, dict(norm=target)


FAMILY = Family('inplace_abn', 'a published network with InPlace-ABN',
                'a checkpoint of a published network with InPlace-ABN, or of one that was trained with its code',
                is_published_name, convert_state_dict, check_complete, adapt)
