"""Published RevBiFPN (Cerebras, BSD 3-Clause)."""
import re
from itertools import combinations
from typing import Dict, List, Set, Tuple

from torch import Tensor

from ..complete import require
from ..family import Family

_BLOCK = re.compile(r'rev_stack\.(\d+)\.rev_transform_(\d+)\.(f|g)\.xform_0_1\.(.+)')
_SILO = re.compile(r'rev_stack\.(\d+)\.(f|g)\.xform_(\d+)_(\d+)\.(.+)')
_NECK = re.compile(r'rev_stack\.recomp_op\.recomp_transform_(\d+)\.(.+)')
_HEAD = re.compile(r'head\.pyramid_heads\.(\d+)\.(.+)')
# In mmrev's names: a block of a row and level, or the path between two levels.
_PLACE = re.compile(
    r'backbone\.stages\.couplings\.(\d+)\.(?:blocks\.(\d+)\.(\d+)\.[fg]|silo\.(?:down|up)\.(\d+)_(\d+))')
_LAYERS = (('exp_conv.', 'expand_conv.'), ('dw_conv.', 'depthwise_conv.'), ('.norm.', '.bn.'),
           ('se.se.1.', 'se.reduce.'), ('se.se.3.', 'se.expand.'))


def convert_state_dict(state_dict: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """Rename a published state dict for an mmpretrain classifier with backbone, neck and head of mmrev.

    Args:
        state_dict: Published weights: ``rev_stack.*``, and optionally those of neck and head.

    Returns:
        The same tensors, named ``backbone.*``, ``neck.*`` and ``head.*``.

    Raises:
        KeyError: If a key does not belong to a RevBiFPN, or if a layer is missing.
    """
    places = _stage_of_each_layer(state_dict)
    silo_levels = _silo_levels(state_dict)
    num_fusions = len({match.group(1) for match in map(_HEAD.fullmatch, state_dict) if match})
    return {_convert_key(key, places, silo_levels, num_fusions): value for key, value in state_dict.items()}


def check_complete(weights: Dict[str, Tensor]) -> None:
    """Check that stages have all blocks, blocks all layers of their level, convolutions norms, and all shapes match.

    Args:
        weights: Result of `convert_state_dict`.

    Raises:
        KeyError: If something is missing or does not match.
    """
    convs = {key.removesuffix('.conv.weight'): value for key, value in weights.items() if key.endswith('.conv.weight')}
    for name, conv in convs.items():
        for part in ('weight', 'bias', 'running_mean', 'running_var'):
            norm = weights.get(f'{name}.bn.{part}')
            if norm is None or len(norm) != len(conv):
                raise KeyError(f'`{name}.bn.{part}` is {"missing" if norm is None else "not of its convolution"}')
    for block in {name.rpartition('.')[0] for name in convs if name.endswith(('_conv.conv', '_conv'))}:
        expand, depthwise, project = (convs.get(f'{block}.{part}_conv') for part in ('expand', 'depthwise', 'project'))
        if depthwise is None or project is None:
            raise KeyError(f'`{block}` lacks a convolution')
        if len(depthwise) != project.shape[1] or (expand is not None and len(expand) != len(depthwise)):
            raise KeyError(f'the convolutions of `{block}` do not fit each other')
    _check_stages(weights)


def _check_stages(weights: Dict[str, Tensor]) -> None:
    """Check that each stage has the blocks of all its levels, and those of a level have the same layers."""
    held: Dict[str, Set[str]] = {}  # the weights of a place
    rows, levels = [1], [2]  # by stage, from 0: rows of blocks, and levels at the end
    for match in filter(None, map(_PLACE.match, weights)):
        held.setdefault(match.group(), set()).add(match.string[match.end():])
        stage, row, *indices = (int(group or 0) for group in match.groups())
        rows += [1] * (stage + 1 - len(rows))
        levels += [2] * (stage + 1 - len(levels))
        rows[stage], levels[stage] = max(rows[stage], row + 1), max(levels[stage], *(i + 1 for i in indices))
    if not held:
        raise KeyError('`backbone.stages` is missing')
    levels = [max(levels[:stage + 1]) for stage in range(len(levels))]
    places = [(stage, f'blocks.{row}.{level}.{function}') for stage in range(len(rows)) for row in range(rows[stage])
              for level in range(levels[stage - 1] if stage else 1) for function in 'fg']
    places += [(stage, f'silo.{path}') for stage in range(len(rows)) for i, j in combinations(range(levels[stage]), 2)
               for path in (f'down.{i}_{j}', f'up.{j}_{i}')]
    alike: Dict[str, List[str]] = {}  # places with the same layers
    for stage, place in places:
        kind = re.sub(r'blocks\.\d+\.(\d+)\.[fg]', r'blocks.\1', place)
        alike.setdefault(kind, []).append(f'backbone.stages.couplings.{stage}.{place}')
    for names in alike.values():
        parts = sorted(set().union(*(held.get(name, set()) for name in names)))
        require(weights, [name + part for name in names for part in parts])


def is_published_name(key: str) -> bool:
    """Whether a key belongs to the reversible body, which only a published RevBiFPN has."""
    return key.startswith('rev_stack.')


def _convert_key(key: str, places: Dict[int, Tuple[int, int]], silo_levels: Dict[int, int], num_fusions: int) -> str:
    block, silo, neck, head = (pattern.fullmatch(key) for pattern in (_BLOCK, _SILO, _NECK, _HEAD))
    if block:
        layer, level, function, rest = block.groups()
        stage, row = places[int(layer)]
        prefix = f'backbone.stages.couplings.{stage}.blocks.{row}.{level}.{function}'
    elif silo:
        layer, function, i, j, rest = silo.groups()
        stage, _ = places[int(layer)]
        if function == 'g':  # the published code counts levels from the coarsest
            coarsest = silo_levels[int(layer)] - 1
            i, j = coarsest - int(i), coarsest - int(j)
        direction = 'down' if function == 'f' else 'up'
        prefix = f'backbone.stages.couplings.{stage}.silo.{direction}.{i}_{j}'
    elif neck or head:
        level, rest = (neck or head).groups()
        prefix = f'neck.levels.couplings.{level}.f' if neck else f'head.pyramid.couplings.{level}.f'
    elif key.startswith('head.final_conv.'):
        prefix, rest = f'head.pyramid.couplings.{num_fusions}.f', key.removeprefix('head.final_')
    elif key.startswith('head.fc.'):
        return key
    else:
        raise KeyError(f'{key!r} is not a key of a published RevBiFPN')
    for theirs, ours in _LAYERS:
        rest = rest.replace(theirs, ours)
    return f'{prefix}.{rest}'


def _stage_of_each_layer(state_dict) -> Dict[int, Tuple[int, int]]:
    """Return ``{layer: (stage, row of blocks)}``; a silo ends a stage."""
    silos = set(_silo_levels(state_dict))
    layers: List[int] = sorted({int(m.group(1)) for m in map(_BLOCK.fullmatch, state_dict) if m} | silos)
    missing = next((i for i in range(1, max(layers, default=1)) if i not in layers), None)  # layer 0 has no weights
    if missing is not None:
        raise KeyError(f'layer {missing} of `rev_stack` is missing, the last is {layers[-1]}')
    places, stage, row = {}, 0, 0
    for layer in layers:
        places[layer] = (stage, row)
        stage, row = (stage + 1, 0) if layer in silos else (stage, row + 1)
    return places


def _silo_levels(state_dict) -> Dict[int, int]:
    """Return ``{layer: number of levels}`` of the silos."""
    levels: Dict[int, int] = {}
    for match in filter(None, map(_SILO.fullmatch, state_dict)):
        layer = int(match.group(1))
        levels[layer] = max(levels.get(layer, 0), int(match.group(4)) + 1)
    return levels


FAMILY = Family('revbifpn', 'a RevBiFPN',
                'a checkpoint of the published RevBiFPN, or of one that was trained with its code',
                is_published_name, convert_state_dict, check_complete)
