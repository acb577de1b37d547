"""Checkpoints of the published networks with parameter-free layers: recognised and converted."""
import os
from typing import Any, Dict

from torch import Tensor

from mmrev.problems import ProblemError

from .pflayer import check_complete, convert_state_dict, is_published_name
from .published import published_weights

_REMEDY = 'Give a checkpoint of naver-ai/PfLayer, or of a network that was trained with its code'


def convert(content: Any, file: str) -> Dict[str, Any]:
    """A published checkpoint as mmengine loads it into a classifier of configs/parameter_free.

    Args:
        content: What `published.read` gave.
        file: Where it is from, for errors and the record.

    Returns:
        ``{'state_dict': ..., 'meta': ...}``.

    Raises:
        ProblemError: If it is not such a checkpoint.
    """
    foreign = f'`{file}` is not a checkpoint of a network with parameter-free layers'
    weights = published_weights(content, is_published_name)
    if weights is None:
        held = content.get('state_dict', content) if isinstance(content, dict) else {}
        if isinstance(held, dict) and any(str(key).startswith('backbone.') for key in held):
            raise ProblemError(f'`{file}` has names of OpenMMLab already', 'Load it as it is')
        raise ProblemError(f'{foreign}: no weight in it is named as published', _REMEDY)
    strange = next((key for key, value in weights.items() if not isinstance(value, Tensor)), None)
    if strange is not None:
        raise ProblemError(f'{foreign}: `{strange}` is a {type(weights[strange]).__name__}, not a tensor', _REMEDY)
    try:
        converted = convert_state_dict(weights)
        check_complete(converted)
        return dict(state_dict=converted, meta=dict(converted_from=os.path.basename(file)))
    except KeyError as error:
        raise ProblemError(f'{foreign}: {error.args[0]}', _REMEDY) from error
