"""The published models, as the metafiles state them, and their checkpoints: found, checked, read and converted.

What is read here comes from elsewhere, so it is read with ``weights_only=True`` and refused, in words, unless it is a
dict of tensors under the published names.
"""
import argparse
import contextlib
import functools
import hashlib
import os
import re
import warnings
from pathlib import Path
from typing import Any, Callable, Dict, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from mmrev.problems import ProblemError

from .revbifpn import check_complete, convert_state_dict, is_published_name

INDEX = Path(__file__).parents[1] / '.mim' / 'model-index.yml'
CONVERTER = 'tools/model_converters/revbifpn_to_mmrev.py'
# Where trainers keep the weights in a checkpoint, the averaged ones first, as timm takes them.
_PLACES = ('state_dict_ema', 'model_ema', 'state_dict', 'model')
_WRAPPERS = re.compile(r'^(?:module\.|_orig_mod\.)+')


class Model(NamedTuple):
    """One model of the metafiles.

    ``url`` and ``sha256`` are None where no weights are published, or where a browser alone can fetch them: from
    ``page``, a file of that ``md5``.
    """

    name: str
    config: str  # path below the folder of the index
    tasks: Tuple[str, ...]
    url: Optional[str]
    sha256: Optional[str]
    page: Optional[str] = None
    md5: Optional[str] = None

    @property
    def config_file(self) -> str:
        return str(INDEX.parent / self.config)

    @property
    def weights(self) -> str:
        """What mmengine loads the weights from; without any, `mmrev.checkpoints.load_from_mmrev` says so."""
        return self.url or f'mmrev://{self.name}'


@functools.lru_cache(maxsize=None)
def models() -> Tuple[Model, ...]:
    """All models of this package's index."""
    import yaml
    loader = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)
    entries = []
    for metafile in yaml.load(INDEX.read_text(encoding='utf-8'), loader)['Import']:
        entries += yaml.load((INDEX.parent / metafile).read_text(encoding='utf-8'), loader)['Models']
    return tuple(Model(entry['Name'], entry['Config'], tuple(result['Task'] for result in entry.get('Results') or ()),
                       entry.get('Weights'), entry.get('Weights SHA256'), entry.get('Published Weights'),
                       entry.get('Weights MD5')) for entry in entries)


def find_model(name: str) -> Optional[Model]:
    """The model of this name, in upper or lower case."""
    return next((model for model in models() if model.name.lower() == name.lower()), None)


def find_file(path: str) -> Optional[Model]:
    """The model whose published weights have this file name, in whatever folder or at whatever address."""
    name = os.path.basename(path)
    return next((model for model in models() if model.url and os.path.basename(model.url) == name), None)


def sha256_of(file: str) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    return _digest(file, hashlib.sha256())


def md5_of(file: str) -> str:
    """The MD5 of a file, in hexadecimal."""
    return _digest(file, hashlib.md5(usedforsecurity=False))


def _digest(file: str, digest: Any) -> str:
    with open(file, 'rb') as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_hash(file: str, model: Model, digest: Optional[str] = None) -> None:
    """Check that a file is the published one.

    Args:
        file: Its path.
        model: Whose weights it should be.
        digest: Its SHA-256, if known already.

    Raises:
        ProblemError: If it is another, or damaged.
    """
    digest = digest or sha256_of(file)
    if digest != model.sha256:
        raise ProblemError(
            f'`{file}` has the name of the published weights of {model.name}, but not their content: its sha256 is '
            f'{digest}, theirs is {model.sha256}', f'Download {model.url} again; for weights of your own use another '
            f'file name, or convert them by {CONVERTER} --any-hash')


def read(file: str, map_location: Any = None) -> Any:
    """Read a checkpoint that nobody vouches for: tensors, plain Python values, what mmengine saves, no code.

    Args:
        file: Its path.
        map_location: See `torch.load`; by default everything is on the CPU.

    Raises:
        ProblemError: If it cannot be read, or holds anything else.
    """
    if not os.path.isfile(file):
        raise ProblemError(f'`{file}` {"is no file" if os.path.exists(file) else "does not exist"}',
                              'Give the path of a checkpoint')
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter('ignore')  # about what is strange in the file: the error says it
        stack.enter_context(_allowing([argparse.Namespace, *_numpy_and_mmengine()]))
        try:
            return torch.load(file, map_location=map_location or 'cpu', weights_only=True)
        except PermissionError as error:
            raise ProblemError(f'`{file}` may not be read', 'Give access to it') from error
        except Exception as error:  # whatever a reader of foreign bytes runs into
            unsafe = re.search(r'GLOBAL (\S+)', str(error))
            if unsafe:
                raise ProblemError(f'`{file}` holds code, or objects that are not weights: {unsafe.group(1)}',
                                      'It was not loaded; take the file from its publisher') from error
            raise ProblemError(f'`{file}` ({os.path.getsize(file):,} bytes) cannot be read: truncated, damaged or '
                                  'no checkpoint', 'Download or copy it again') from error


def _allowing(wanted: list) -> Any:
    """Let `torch.load` construct these in a block. At its end torch forgets them all: what it knew is left out."""
    known = torch.serialization.get_safe_globals()
    return torch.serialization.safe_globals([one for one in wanted if one not in known])


def _numpy_and_mmengine() -> list:
    try:
        from mmrev.checkpoints import safe_globals
    except ImportError:  # no mmengine, so none of its checkpoints
        return []
    return safe_globals()


def published_weights(content: Any, is_published_name: Callable[[str], bool] = is_published_name
                      ) -> Optional[Dict[str, Tensor]]:
    """The weights under their published names that a checkpoint holds, or None if it holds none.

    Args:
        content: A state dict, or a dict that holds one where timm's tools put it; averaged weights are preferred.
        is_published_name: Tells such a name; by default, those of a RevBiFPN.
    """
    if not isinstance(content, dict):
        return None
    for held in [*(content.get(place) for place in _PLACES), content]:
        if isinstance(held, dict) and all(isinstance(key, str) for key in held):
            weights = {_WRAPPERS.sub('', key): value for key, value in held.items()}
            if any(is_published_name(key) for key in weights):
                return weights
    return None


def convert(content: Any, file: str) -> Dict[str, Any]:
    """A published checkpoint as mmengine loads it into the models of this package.

    Args:
        content: What `read` gave.
        file: Where it is from, for the error and the record.

    Returns:
        ``{'state_dict': ..., 'meta': ...}``.

    Raises:
        ProblemError: If it is not a checkpoint of a RevBiFPN.
    """
    foreign = f'`{file}` is not a checkpoint of a RevBiFPN'
    remedy = 'Give a checkpoint of the published RevBiFPN, or of one that was trained with its code'
    weights = published_weights(content)
    if weights is None:
        if isinstance(content, dict) and _is_ours(content.get('state_dict', content)):
            raise ProblemError(f'`{file}` has the names of mmrev already', 'Load it as it is')
        raise ProblemError(f'{foreign}: no weight in it is named as published', remedy)
    strange = next((key for key, value in weights.items() if not isinstance(value, Tensor)), None)
    if strange is not None:
        raise ProblemError(f'{foreign}: `{strange}` is a {type(weights[strange]).__name__}, not a tensor', remedy)
    try:
        converted = convert_state_dict(weights)
        check_complete(converted)
        return dict(state_dict=converted, meta=dict(converted_from=os.path.basename(file)))
    except KeyError as error:
        raise ProblemError(f'{foreign}: {error.args[0]}', remedy) from error


def _is_ours(state_dict: Any) -> bool:
    return isinstance(state_dict, dict) and any(
        isinstance(key, str) and key.startswith('backbone.stages.couplings.') for key in state_dict)
