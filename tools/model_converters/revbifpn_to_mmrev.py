"""Names of a published RevBiFPN state dict to mmrev's."""
import re
from typing import Dict, List, Tuple

from torch import Tensor

_BLOCK = re.compile(r'rev_stack\.(\d+)\.rev_transform_(\d+)\.(f|g)\.xform_0_1\.(.+)')
_SILO = re.compile(r'rev_stack\.(\d+)\.(f|g)\.xform_(\d+)_(\d+)\.(.+)')
_LAYERS = (('exp_conv.', 'expand_conv.'), ('dw_conv.', 'depthwise_conv.'), ('.norm.', '.bn.'),
           ('se.se.1.', 'se.reduce.'), ('se.se.3.', 'se.expand.'))


def convert_state_dict(state_dict: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """The backbone's entries of a published state dict under the names of ``mmrev.RevBiFPN``.

    Args:
        state_dict: Keys as published, ``rev_stack.*``; those of neck and head are left out.

    Raises:
        KeyError: For a backbone key that is not of a RevBiFPN.
    """
    places = _stage_of_each_layer(state_dict)
    silo_levels = _silo_levels(state_dict)
    converted = {}
    for key, value in state_dict.items():
        if not key.startswith('rev_stack.') or key.startswith('rev_stack.recomp_op.'):
            continue
        converted[_convert_key(key, places, silo_levels)] = value
    return converted


def _convert_key(key: str, places: Dict[int, Tuple[int, int]], silo_levels: Dict[int, int]) -> str:
    block, silo = _BLOCK.fullmatch(key), _SILO.fullmatch(key)
    if block:
        layer, level, function, rest = block.groups()
        stage, row = places[int(layer)]
        prefix = f'blocks.{row}.{level}.{function}'
    elif silo:
        layer, function, i, j, rest = silo.groups()
        stage, _ = places[int(layer)]
        if function == 'f':
            prefix = f'silo.down.{i}_{j}'
        else:  # published with levels counted from the coarsest
            coarsest = silo_levels[int(layer)] - 1
            prefix = f'silo.up.{coarsest - int(i)}_{coarsest - int(j)}'
    else:
        raise KeyError(f'{key!r} is not a key of a published RevBiFPN backbone')
    for theirs, ours in _LAYERS:
        rest = rest.replace(theirs, ours)
    return f'stages.couplings.{stage}.{prefix}.{rest}'


def _stage_of_each_layer(state_dict) -> Dict[int, Tuple[int, int]]:
    """``{layer: (stage, row of blocks)}``; a silo ends a stage."""
    silos = set(_silo_levels(state_dict))
    layers: List[int] = sorted({int(m.group(1)) for m in map(_BLOCK.fullmatch, state_dict) if m} | silos)
    places, stage, row = {}, 0, 0
    for layer in layers:
        places[layer] = (stage, row)
        stage, row = (stage + 1, 0) if layer in silos else (stage, row + 1)
    return places


def _silo_levels(state_dict) -> Dict[int, int]:
    """``{layer: number of levels}`` of the silos."""
    levels: Dict[int, int] = {}
    for match in filter(None, map(_SILO.fullmatch, state_dict)):
        layer = int(match.group(1))
        levels[layer] = max(levels.get(layer, 0), int(match.group(4)) + 1)
    return levels
