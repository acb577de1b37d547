"""Published RevViT, of PySlowFast and of mmpretrain."""
import re
from typing import Dict, Tuple

import torch
from torch import Tensor

from ..complete import check_blocks, names_of, require
from ..family import Family

_Rules = Tuple[Tuple[str, str], ...]
_BLOCK = r'backbone.layers.couplings.\1.'

_SLOWFAST: _Rules = (
    (r'rev_backbone\.layers\.(\d+)\.F\.norm\.(\w+)', _BLOCK + r'f.norm.\2'),
    (r'rev_backbone\.layers\.(\d+)\.F\.attn\.(q|k|v|qkv|proj)\.(\w+)', _BLOCK + r'f.layer.\2.\3'),
    (r'rev_backbone\.layers\.(\d+)\.G\.norm\.(\w+)', _BLOCK + r'g.norm.\2'),
    (r'rev_backbone\.layers\.(\d+)\.G\.mlp\.(fc1|fc2)\.(\w+)', _BLOCK + r'g.layer.\2.\3'),
    (r'patch_embed\.proj\.(\w+)', r'backbone.patch_embed.projection.\1'),
    (r'(pos_embed|cls_token)', r'backbone.\1'),
    (r'head\.projection\.(\w+)', r'head.fc.\1'),
)
_MMPRETRAIN: _Rules = (
    (r'backbone\.layers\.(\d+)\.ln1\.(\w+)', _BLOCK + r'f.norm.\2'),
    (r'backbone\.layers\.(\d+)\.attn\.(qkv|proj)\.(\w+)', _BLOCK + r'f.layer.\2.\3'),
    (r'backbone\.layers\.(\d+)\.ln2\.(\w+)', _BLOCK + r'g.norm.\2'),
    (r'backbone\.layers\.(\d+)\.ffn\.layers\.0\.0\.(\w+)', _BLOCK + r'g.layer.fc1.\2'),
    (r'backbone\.layers\.(\d+)\.ffn\.layers\.1\.(\w+)', _BLOCK + r'g.layer.fc2.\2'),
    (r'(backbone\.(?:patch_embed\.projection\.\w+|pos_embed|cls_token)|head\..+)', r'\1'),
)
_LAYER = re.compile(r'\w+\.layers\.(\d+)\.')
_FINAL_NORM = re.compile(r'(?:norm|backbone\.ln1)\.(\w+)')


def convert_state_dict(state_dict: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """Rename a published state dict for an mmpretrain classifier with a backbone of mmrev and ``LinearClsHead``.

    The weights of queries, keys and values, separate in PySlowFast, are concatenated.

    Args:
        state_dict: Keys of PySlowFast (``rev_backbone.layers.*``) or of mmpretrain (``backbone.layers.*.ln1``).

    Raises:
        KeyError: If a key does not belong to a RevViT, or if attention lacks queries, keys or values.
    """
    rules = _SLOWFAST if any(key.startswith('rev_backbone.') for key in state_dict) else _MMPRETRAIN
    layers = [int(match.group(1)) for match in map(_LAYER.match, state_dict) if match]
    last = f'backbone.layers.couplings.{max(layers, default=0)}.after.level.f.norm.'
    converted = {}
    for key, value in state_dict.items():
        final = _FINAL_NORM.fullmatch(key)
        converted[last + final.group(1) if final else _rename(key, rules)] = value
    return _join_qkv(converted)


def check_complete(weights: Dict[str, Tensor]) -> None:
    """Check that a network has all weights of its blocks, of its patch embedding and of its last norm.

    Args:
        weights: Result of `convert_state_dict`.

    Raises:
        KeyError: If a weight is missing.
    """
    depth, = check_blocks(weights, 'backbone.layers.couplings.{number}', optional=['after']) or [0]
    require(weights, ['backbone.pos_embed', *names_of('backbone.patch_embed.projection'),
                      *names_of(f'backbone.layers.couplings.{depth - 1}.after.level.f.norm')])


def is_published_name(key: str) -> bool:
    """Whether a key belongs to the reversible body in PySlowFast or mmpretrain."""
    return key.startswith('rev_backbone.') or re.match(r'backbone\.layers\.\d+\.ln1\.', key) is not None


def _rename(key: str, rules: _Rules) -> str:
    for pattern, ours in rules:
        match = re.fullmatch(pattern, key)
        if match:
            return match.expand(ours)
    raise KeyError(f'{key!r} is not a key of a published RevViT')


def _join_qkv(state_dict: Dict[str, Tensor]) -> Dict[str, Tensor]:
    joined = {}
    for key, value in state_dict.items():
        match = re.fullmatch(r'(.+\.f\.layer\.)([qkv])(\.\w+)', key)
        if not match:
            joined[key] = value
            continue
        prefix, part, kind = match.groups()
        parts = [f'{prefix}{name}{kind}' for name in 'qkv']
        missing = [name for name in parts if name not in state_dict]
        if missing:
            raise KeyError(f'{missing[0]!r} is missing, but there is {key!r}')
        if part == 'q':
            joined[f'{prefix}qkv{kind}'] = torch.cat([state_dict[name] for name in parts])
    return joined


FAMILY = Family('revvit', 'a RevViT', "a checkpoint of PySlowFast's RevViT, or of mmpretrain's", is_published_name,
                convert_state_dict, check_complete)
