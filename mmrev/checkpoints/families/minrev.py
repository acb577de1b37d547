"""State dicts of minREV's RevViT, Rev-Swin and Rev-MViT."""
import re
from typing import Dict, List, Tuple

from torch import Tensor

from ..complete import check_blocks, names_of, require
from ..family import Family

_Rules = Tuple[Tuple[str, str], ...]

_SWIN_KEY, _MVIT_KEY = 'layers.0.blocks.0.norm1.weight', 'blocks.0.norm1.weight'
FIRST_KEYS = ('layers.0.F.norm.weight', _SWIN_KEY, _MVIT_KEY)  # each of exactly one network

_VIT: _Rules = (
    (r'layers\.(\d+)\.F\.norm\.', r'layers.couplings.\1.f.norm.'),
    (r'layers\.(\d+)\.F\.attn\.in_proj_', r'layers.couplings.\1.f.layer.qkv.'),
    (r'layers\.(\d+)\.F\.attn\.out_proj\.', r'layers.couplings.\1.f.layer.proj.'),
    (r'layers\.(\d+)\.G\.norm\.', r'layers.couplings.\1.g.norm.'),
    (r'layers\.(\d+)\.G\.mlp\.0\.', r'layers.couplings.\1.g.layer.fc1.'),
    (r'layers\.(\d+)\.G\.mlp\.2\.', r'layers.couplings.\1.g.layer.fc2.'),
    (r'pos_embeddings$', 'pos_embed'),
    (r'patch_embed\.', 'patch_embed.projection.'),
    (r'norm\.', 'pooled_norms.0.'),
)
_BLOCK: _Rules = (
    (r'norm1\.', 'f.norm.'),
    (r'attn\.', 'f.layer.'),
    (r'norm2\.', 'g.norm.'),
    (r'mlp\.', 'g.layer.'),
)
_END: _Rules = (
    (r'lateral_fuse\.fuse_fn\.', 'after.end.fuse.'),
    (r'downsample\.', 'after.end.merge.'),
)
_END_WEIGHTS = ('fuse.fc1.weight', 'fuse.fc1.bias', 'fuse.fc2.weight', 'fuse.fc2.bias', 'merge.reduction.weight',
                'merge.norm.weight', 'merge.norm.bias')


def convert_state_dict(state_dict: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """Rename a state dict of minREV for an mmpretrain classifier with a backbone of mmrev and ``LinearClsHead``.

    Args:
        state_dict: Weights with minREV's names. Swin's ``relative_position_index``, which is computed, is left out.

    Returns:
        The same tensors, named ``backbone.*`` and ``head.fc.*``.

    Raises:
        KeyError: If a key is not one of minREV's.
    """
    rename = _swin if _SWIN_KEY in state_dict else _mvit if _MVIT_KEY in state_dict else _vit
    converted = {}
    for key, value in state_dict.items():
        if key.startswith('head.'):
            converted[key.replace('head.', 'head.fc.', 1)] = value
        elif not key.endswith('.relative_position_index'):
            converted[f'backbone.{rename(key, state_dict)}'] = value
    return converted


def check_complete(weights: Dict[str, Tensor]) -> None:
    """Check that a network has all weights of its blocks, of its patch embedding and of its last norm.

    Args:
        weights: Result of `convert_state_dict`.

    Raises:
        KeyError: If a weight is missing.
    """
    vit = 'backbone.pos_embed' in weights or any(key.startswith('backbone.layers.') for key in weights)
    swin = 'backbone.patch_embed.norm.weight' in weights or any('relative_position_bias' in key for key in weights)
    blocks = f'backbone.{"layers" if vit else "blocks"}.couplings.'
    kinds = [] if vit or swin else [r'f\.(?:norm|layer)\.|g\.', r'f\.(?:norm\d|attn|mlp)\.']  # of Rev-MViT's blocks
    depth, = check_blocks(weights, blocks + '{number}', [*kinds, r'after\.end', r'after\.level']) or [0]
    widths = [len(weights[f'{blocks}{i}.f.norm.weight']) for i in range(depth * swin)]
    ends = [f'{blocks}{i}.after.end' for i in range(len(widths) - 1) if widths[i] != widths[i + 1]]
    require(weights, [*names_of('backbone.patch_embed.projection'), *['backbone.pos_embed'] * vit,
                      *names_of('backbone.patch_embed.norm') * swin,
                      *(name for end in ends for name in names_of(end, _END_WEIGHTS)),
                      *names_of(f'{blocks}{depth - 1}.after.level.f.norm' if swin else 'backbone.pooled_norms.0')])


def _first(rules: _Rules, key: str) -> str:
    """The key, renamed by the first rule that matches its beginning."""
    for pattern, ours in rules:
        if re.match(pattern, key):
            return re.sub(pattern, ours, key, count=1)
    raise KeyError(f'{key!r} is not a key of minREV')


def _vit(key: str, _: Dict[str, Tensor]) -> str:
    return _first(_VIT, key)


def _swin(key: str, state_dict: Dict[str, Tensor]) -> str:
    depths = _depths(state_dict)
    match = re.fullmatch(r'layers\.(\d+)\.(?:blocks\.(\d+)\.)?(.+)', key)
    if match:
        stage, block, rest = match.groups()
        before = sum(depths[:int(stage)])
        if block is None:
            return f'blocks.couplings.{before + depths[int(stage)] - 1}.{_first(_END, rest)}'
        return f'blocks.couplings.{before + int(block)}.{_first(_BLOCK, rest)}'
    return _first((
        (r'patch_embed\.proj\.', 'patch_embed.projection.'),
        (r'patch_embed\.norm\.', 'patch_embed.norm.'),
        (r'norm\.', f'blocks.couplings.{sum(depths) - 1}.after.level.f.norm.'),
    ), key)


def _depths(state_dict: Dict[str, Tensor]) -> List[int]:
    names = map(re.compile(r'layers\.(\d+)\.blocks\.(\d+)\.').match, state_dict)
    blocks = {tuple(map(int, match.groups())) for match in names if match}
    return [sum(stage == s for s, _ in blocks) for stage in range(1 + max(s for s, _ in blocks))]


def _mvit(key: str, state_dict: Dict[str, Tensor]) -> str:
    match = re.fullmatch(r'blocks\.(\d+)\.(.+)', key)
    if not match:
        return _first(((r'patch_embed\.proj\.', 'patch_embed.projection.'), (r'norm\.', 'pooled_norms.0.')), key)
    block, rest = match.groups()
    widths = [state_dict[f'blocks.{max(0, i)}.norm1.weight'].shape for i in (int(block), int(block) - 1)]
    begins = widths[0] != widths[1]  # a stage begins with a block that is not reversible
    return f'blocks.couplings.{block}.' + (f'f.{rest}' if begins else _first(_BLOCK, rest))


def is_published_name(key: str) -> bool:
    """Whether a key occurs in exactly one of the networks."""
    return key in FIRST_KEYS


FAMILY = Family('minrev', 'a network of minREV', "a checkpoint of minREV's RevViT, Rev-Swin or Rev-MViT",
                is_published_name, convert_state_dict, check_complete)
