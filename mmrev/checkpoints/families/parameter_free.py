"""Published networks with parameter-free layers (naver-ai/PfLayer, Apache 2.0)."""
import re
from typing import Dict, Set

from torch import Tensor

from ..complete import require
from ..family import Family

_RESNET_PARTS = {'reduction_block': '1', 'conv_block': '2', 'expansion_block': '3'}
_RESNET_BLOCK = re.compile(
    r'(layer\d+\.\d+)\.(reduction_block|conv_block|expansion_block)\.(?:1\.(?=\d))?([01])\.(\w+)')
_RESNET_OTHER = re.compile(r'layer\d+\.\d+\.downsample\.[01]\.\w+')
_BLOCK = re.compile(
    r'(?:transformers\.(\d+)\.)?blocks\.(\d+)\.(norm[12]|mlp\.fc[12]|attn\.qkv|attn\.proj)\.(weight|bias)')
_TRANSFORMER_OTHER = {'pos_embed': 'pos_embed', 'patch_embed.proj': 'patch_embed.projection',
                      'patch_embed.conv': 'patch_embed.projection', 'norm': 'norm'}

# In mmrev's names: a block, then the stages, their numbers of blocks, and the other weights of each network.
_OUR_BLOCK = re.compile(r'backbone\.(layer\d+|stages\.\d+|blocks)\.(\d+)\.(.+)')
_LAYERS, _STAGES = [f'layer{i}' for i in (1, 2, 3, 4)], [f'stages.{i}' for i in range(3)]
_NORM = ['weight', 'bias', 'running_mean', 'running_var']
_STEM = ['conv1.weight', *(f'bn1.{part}' for part in _NORM),
         *(f'{layer}.0.downsample.{part}' for layer in _LAYERS for part in ('0.weight', *(f'1.{p}' for p in _NORM)))]
_ENDS = ['pos_embed', *(f'{name}.{kind}' for name in ('patch_embed.projection', 'norm') for kind in ('weight', 'bias'))]
_POOLS = [f'pools.{i}.{kind}' for i in (0, 1) for kind in ('weight', 'bias')]
_NETWORKS = [(_LAYERS, (3, 4, 6, 3), _STEM), (_LAYERS, (3, 4, 23, 3), _STEM), (['blocks'], (12, ), _ENDS),
             (_STAGES, (2, 6, 4), _ENDS + _POOLS), (_STAGES, (3, 6, 4), _ENDS + _POOLS)]


def convert_state_dict(state_dict: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """Rename a published state dict for an mmpretrain classifier with a backbone of mmrev.

    Args:
        state_dict: Published weights of R50, R50-max, R50-hybrid, or a ViT or PiT with max pooling, with or without
            classifier.

    Returns:
        The same tensors in the same order, named ``backbone.*`` and ``head.fc.*``.

    Raises:
        KeyError: If a key belongs to none of these networks.
    """
    return {_convert_key(key, state_dict): value for key, value in state_dict.items()}


def check_complete(weights: Dict[str, Tensor]) -> None:
    """Check that a network has its stem and all its blocks, and that blocks of a kind have the same weights.

    Args:
        weights: Result of `convert_state_dict`.

    Raises:
        KeyError: If a weight is missing.
    """
    stages: Dict[str, Dict[int, Set[str]]] = {}
    for stage, number, part in (match.groups() for match in map(_OUR_BLOCK.fullmatch, weights) if match):
        stages.setdefault(stage, {}).setdefault(int(number), set()).add(part)
    depths = {stage: len(stages[stage]) for stage in sorted(stages)}
    others = next((others for names, numbers, others in _NETWORKS if depths == dict(zip(names, numbers))), None)
    if others is None:
        raise KeyError(f'it has these numbers of blocks, which no such network has: {depths}')
    missing = [name for name in others if f'backbone.{name}' not in weights]
    for stage, blocks in stages.items():
        for number in range(len(blocks)):
            kin = [parts for s, others in stages.items() for n, parts in others.items()
                   if _has_as_much(stage, number, s, n)]
            missing += [f'{stage}.{number}.{part}' for part in sorted(set().union(*kin) - blocks.get(number, set()))]
    require(weights, [f'backbone.{name}' for name in missing])


def _has_as_much(stage: str, number: int, other_stage: str, other_number: int) -> bool:
    """Whether a block has all weights that another block has."""
    if not stage.startswith('layer'):
        return number % 2 == other_number % 2  # two kinds alternate
    return other_number > 0 or (number == 0 and 'layer1' not in (stage, other_stage))  # the first of a stage has more


def is_published_name(key: str) -> bool:
    """Whether a key is a published name of the body of the network."""
    return bool(_RESNET_BLOCK.fullmatch(key) or _BLOCK.fullmatch(key))


def _convert_key(key: str, state_dict: Dict[str, Tensor]) -> str:
    head = re.fullmatch(r'(?:fc|head)\.(weight|bias)', key)
    if head:
        return f'head.fc.{head.group(1)}'
    ours = _resnet(key) or _transformer(key, state_dict)
    if ours is None:
        raise KeyError(f'{key!r} is not a key of a published network with parameter-free layers')
    return f'backbone.{ours}'


def _resnet(key: str):
    block, stem = _RESNET_BLOCK.fullmatch(key), re.fullmatch(r'conv1\.([01])\.(\w+)', key)
    if stem:
        return f'{("conv1", "bn1")[int(stem.group(1))]}.{stem.group(2)}'
    if block:
        path, part, kind, rest = block.groups()
        return f'{path}.{("conv", "bn")[int(kind)]}{_RESNET_PARTS[part]}.{rest}'
    return key if _RESNET_OTHER.fullmatch(key) else None


def _transformer(key: str, state_dict: Dict[str, Tensor]):
    block, pool = _BLOCK.fullmatch(key), re.fullmatch(r'pools\.(\d+)\.conv\.(\w+)', key)
    if pool:
        return f'pools.{pool.group(1)}.{pool.group(2)}'
    if block:
        stage, number, part, rest = block.groups()
        path = f'blocks.{number}' if stage is None else f'stages.{stage}.{number}'
        return f'{path}.{_spatial(key, part, state_dict)}.{rest}'
    name, _, rest = key.rpartition('.')
    ours = _TRANSFORMER_OTHER.get(name or key)
    return ours and (f'{ours}.{rest}' if name else ours)


def _spatial(key: str, part: str, state_dict: Dict[str, Tensor]) -> str:
    """Name of a projection: attention keeps the number of channels, max pooling triples it under the same name."""
    if not part.startswith('attn.'):
        return part
    before = key.partition('.attn.')[0]
    out, wide = state_dict[f'{before}.attn.proj.weight'].shape
    names = dict(qkv='spatial.qkv', proj='spatial.proj') if out == wide else dict(qkv='spatial.fc1', proj='spatial.fc2')
    return names[part.removeprefix('attn.')]


FAMILY = Family('parameter_free', 'a network with parameter-free layers',
                'a checkpoint of naver-ai/PfLayer, or of a network that was trained with its code',
                is_published_name, convert_state_dict, check_complete)
