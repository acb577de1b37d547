"""InPlace-ABN's published segmentation network (Mapillary): a WiderResNet with DeepLabV3's head."""
import re
from typing import Any, Dict, Tuple

from torch import Tensor

from ..complete import NORM, names_of, require
from ..family import Family, Request
from . import inplace_abn

LICENSE = 'CC BY-NC-SA 4.0 (no commercial use)'  # of the snapshot that was trained on Mapillary Vistas
_HEAD = {'map_convs': 'map_convs', 'map_bn': 'map_norm', 'red_conv': 'reduce_conv', 'red_bn': 'norm',
         'global_pooling_conv': 'pool_conv', 'global_pooling_bn': 'pool_norm', 'pool_red_conv': 'pool_reduce_conv'}
_PART = re.compile(r'(body|head|cls)\.(.+)')


def convert_state_dict(state_dict: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """Rename a published state dict for mmseg's ``EncoderDecoder`` with :class:`mmrev.InPlaceABNDeepLabHead`.

    Args:
        state_dict: Published weights, named ``body.*``, ``head.*`` and ``cls.*``.

    Returns:
        The same tensors, named ``backbone.*`` and ``decode_head.*``.

    Raises:
        KeyError: If a key belongs to no such network.
    """
    body = {key.removeprefix('body.'): key for key in state_dict if key.startswith('body.')}
    names = {key: ours for ours, key in inplace_abn.convert_state_dict(body).items()}
    return {names[key] if key in names else _convert_key(key): value for key, value in state_dict.items()}


def check_complete(weights: Dict[str, Tensor]) -> None:
    """Check that a network has all weights of its body and of its head.

    Args:
        weights: Result of `convert_state_dict`.

    Raises:
        KeyError: If a weight is missing.
    """
    inplace_abn.check_complete(weights)
    convs = [f'map_convs.{i}' for i in range(4)]
    convs += [name for name in _HEAD.values() if name.endswith(('conv', 'reduce'))]
    norms = [name for name in _HEAD.values() if name.endswith('norm')]
    require(weights, [f'decode_head.{name}' for name in (
        *(f'{conv}.weight' for conv in convs), *(name for norm in norms for name in names_of(norm, NORM)),
        *names_of('conv_seg'))])


def _convert_key(key: str) -> str:
    part, rest = (_PART.fullmatch(key) or _foreign(key)).groups()
    if part == 'cls':
        return f'decode_head.conv_seg.{rest}'
    module, _, leaf = rest.partition('.')
    if part != 'head' or module not in _HEAD:
        _foreign(key)
    return f'decode_head.{_HEAD[module]}.{leaf}'


def _foreign(key: str):
    raise KeyError(f'{key!r} is not a key of the published segmentation network with InPlace-ABN')


def is_published_name(key: str) -> bool:
    """Whether a key is a published name of the body or the head."""
    return bool(re.match(r'body\.mod\d+\.block\d+\.|head\.(map_convs|global_pooling_conv)\.', key))


def adapt(weights: Dict[str, Tensor], request: Request) -> Tuple[Dict[str, Tensor], Dict[str, Any]]:
    """As of the other networks with InPlace-ABN, with the license of the published snapshot in the metadata."""
    weights, facts = inplace_abn.adapt(weights, request)
    return weights, dict(facts, license=LICENSE)


FAMILY = Family('inplace_abn_deeplab', 'the published segmentation network with InPlace-ABN',
                'the published snapshot of the segmentation network, or one that was trained with its code',
                is_published_name, convert_state_dict, check_complete, adapt)
