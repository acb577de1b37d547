"""Checkpoints of the published networks with InPlace-ABN: recognised, and converted for norms of either kind."""
import os
from typing import Any, Dict, Optional

from torch import Tensor

from mmrev.problems import ProblemError

from . import published
from .inplace_abn import convert_state_dict, fold_signs, is_published_name, to_batch_norm

NORMS = ('inplace_abn', 'batch_norm')  # scale by |weight| + eps, and by the weight


def find_model(md5: str) -> Optional[published.Model]:
    """The published model whose file has this MD5."""
    return next((model for model in published.models() if model.md5 == md5), None)


def trained_with(model: published.Model) -> str:
    """Which of `NORMS` a published model has."""
    return 'batch_norm' if '-stdbn_' in model.name else 'inplace_abn'


def unknown(file: str, md5: str) -> ProblemError:
    """The error that a file is none of the published ones."""
    return ProblemError(
        f'`{file}` is none of the published files: its md5 is {md5}, and theirs are in '
        'configs/inplace_abn/metafile.yml', 'Download it again; for weights of your own, trained with the '
        'published code, add --any-hash')


def convert(content: Any, file: str, source: str, target: str) -> Dict[str, Any]:
    """A published checkpoint as mmengine loads it into a classifier of configs/inplace_abn.

    The activation is of the config alone: weights that were trained with ReLU load into a network with leaky ReLU.

    Args:
        content: What `published.read` gave.
        file: Where it is from, for errors and the record.
        source: The norms that the weights were trained with, one of `NORMS`.
        target: The norms that they are to be loaded into; those of ``source``, or the same function is looked for.

    Returns:
        ``{'state_dict': ..., 'meta': ...}``.

    Raises:
        ProblemError: If it is not such a checkpoint, or there is no such function: a negative weight, where nothing
            takes its sign.
    """
    weights = read_weights(content, file)
    if (source, target) == ('inplace_abn', 'batch_norm'):
        weights = to_batch_norm(weights)
    elif (source, target) == ('batch_norm', 'inplace_abn'):
        weights, left = fold_signs(weights)
        if left:
            raise ProblemError(
                f'{len(left)} norms of `{file}` have negative weights that |weight| + eps of InPlace-ABN cannot hold, '
                f'and take a sum, so that no convolution takes their sign: {", ".join(left[:3])} ...',
                'Keep batch norm: --for batch_norm, and norm_cfg=dict(type=\'mmrev.BatchNormAct\') as in '
                'configs/inplace_abn/resnext101-stdbn_8xb32_in1k.py')
    try:
        return dict(state_dict=convert_state_dict(weights), meta=dict(converted_from=os.path.basename(file)))
    except KeyError as error:
        raise ProblemError(f'{_foreign(file)}: {error.args[0]}', _REMEDY) from error


_REMEDY = 'Give a checkpoint of a published network with InPlace-ABN, or of one that was trained with its code'


def _foreign(file: str) -> str:
    return f'`{file}` is not a checkpoint of a published network with InPlace-ABN'


def read_weights(content: Any, file: str) -> Dict[str, Tensor]:
    """The weights that a checkpoint holds under the published names.

    Raises:
        ProblemError: If it holds none, or anything else under such a name.
    """
    weights = published.published_weights(content, is_published_name)
    if weights is None:
        held = content.get('state_dict', content) if isinstance(content, dict) else {}
        if isinstance(held, dict) and any(str(key).startswith('backbone.') for key in held):
            raise ProblemError(f'`{file}` has names of OpenMMLab already', 'Load it as it is')
        raise ProblemError(f'{_foreign(file)}: no weight in it is named as published', _REMEDY)
    strange = next((key for key, value in weights.items() if not isinstance(value, Tensor)), None)
    if strange is not None:
        raise ProblemError(f'{_foreign(file)}: `{strange}` is a {type(weights[strange]).__name__}, not a tensor',
                              _REMEDY)
    return weights
