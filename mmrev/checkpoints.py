"""Checkpoints that mmengine can load once mmrev is imported: those that it wrote itself, and the published ones.

Since torch 2.6 ``torch.load`` refuses every class that it does not know (``weights_only=True`` is the default). The
checkpoints that mmengine's ``Runner`` writes hold the log history: `HistoryBuffer`, numpy arrays and numpy scalars. So
mmengine 0.10.7 cannot load what it saved itself. We name exactly these as safe; the check stays on for all else.

The published weights have other names than ours. mmengine chooses a loader by the form of a path, so we add three:
``.pth.tar`` files and addresses, as they are published, and ``mmrev://NAME`` for the weights of a model in a metafile.
They are checked and converted on the way; whatever is no published RevBiFPN is loaded as mmengine would.
"""
import copy
import os
import re
import sys
import warnings
from pickle import UnpicklingError
from typing import Any, Callable, Dict, List, Tuple, Union

import numpy as np
from mmengine.logging import HistoryBuffer

from mmrev._after_import import after_import
from mmrev.problems import ProblemError

# By the folder of the configs, for weights that a browser alone can fetch.
_CONVERTERS = dict(inplace_abn='tools/model_converters/inplace_abn_to_mmrev.py',
                   parameter_free='tools/model_converters/pflayer_to_mmrev.py')
_PUBLISHED_FORM = r'(?!\S*://).*(?:\.pth\.tar|revbifpn[^/]*)$'  # of a local path; what the file holds decides
_STATISTICS = ('min', 'max', 'current', 'mean')  # the methods that a HistoryBuffer saves along with itself


def mismatch(model: Any, checkpoint: Dict[str, Any]) -> str:
    """The first parameter of a model that a checkpoint does not hold in its shape, in words; empty if it holds all.

    The names are adapted as the model's modules do when they load.
    """
    state = checkpoint.get('state_dict', checkpoint)
    wrapped = hasattr(model, 'module')  # by augmentation
    model = model.module if wrapped else model
    weights = {key.removeprefix('module.'): value for key, value in state.items() if isinstance(key, str)}
    probe = copy.deepcopy(model).to('meta')
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # that copying to this device does nothing
            missing = set(probe.load_state_dict(weights, strict=False).missing_keys)
    except RuntimeError as error:
        found = re.search(r'size mismatch for (\S+): .*?Size\((.*?)\).*?Size\((.*?)\)', str(error))
        return '`%s` is of shape %s there, and of shape %s in this config' % found.groups() if found else str(error)
    lost = next((name for name, _ in model.named_parameters() if name in missing), None)
    return f'`{lost}` is missing there' if lost else ''


def _history_method(owner: Any, name: str) -> Callable:
    """Stand in for ``builtins.getattr``, by which pickle names a method such as ``HistoryBuffer.min``.

    Raises:
        UnpicklingError: If the checkpoint asks for anything but a statistics method of `HistoryBuffer`.
    """
    if owner is not HistoryBuffer or name not in _STATISTICS:
        raise UnpicklingError(f'A checkpoint may name {_STATISTICS} of HistoryBuffer, but this one asks for '
                              f'`{name}` of {owner!r}')
    return getattr(HistoryBuffer, name)


def safe_globals() -> List[Union[type, Tuple[Callable, str]]]:
    """What ``torch.serialization.add_safe_globals`` takes: the classes and functions in a checkpoint of mmengine."""
    multiarray = getattr(np, '_core', np.core).multiarray  # numpy 2 moved it; checkpoints name the one they met
    reconstruct, scalar = multiarray._reconstruct, multiarray.scalar
    renamed = [(function, f'numpy.{core}.multiarray.{name}') for core in ('core', '_core')
               for name, function in (('_reconstruct', reconstruct), ('scalar', scalar))]
    dtypes = {type(np.dtype(code)) for code in np.typecodes['AllFloat'] + np.typecodes['AllInteger'] + '?'}
    return [HistoryBuffer, np.ndarray, np.dtype, *dtypes, *renamed, (_history_method, 'builtins.getattr')]


def allow_mmengine_checkpoints() -> None:
    """Let ``torch.load`` read mmengine's own checkpoints, with ``weights_only`` on.

    Resuming, testing, and mmdet's ``init_detector`` and ``DetInferencer`` have it from ``import mmrev`` already, see
    `allow_when_needed`; a program that calls ``torch.load`` itself calls this first. Calling it again does no harm.
    """
    import torch
    torch.serialization.add_safe_globals(safe_globals())


def allow_when_needed() -> None:
    """Have mmengine load all these checkpoints as soon as the part of it that loads checkpoints is imported.

    So ``import mmrev`` need not import torch, and it does not matter whether mmrev or mmdet is imported first.
    """
    after_import('mmengine.runner.checkpoint', _add_loaders)


def _add_loaders() -> None:
    from mmengine.runner.checkpoint import CheckpointLoader
    allow_mmengine_checkpoints()
    # Regular expressions, matched from the start of a path; mmengine tries them in descending order of their text, so
    # that the first is before its own `https://`, and the last before its own for any file alone.
    for pattern, loader in ((r'https?://\S*\.pth\.tar$', load_from_published_url), ('mmrev://', load_from_mmrev),
                            (_PUBLISHED_FORM, load_from_published_file)):
        CheckpointLoader.register_scheme(pattern, loader, force=True)


def has_published_form(file: str) -> bool:
    """Whether mmengine loads this path by `load_from_published_file`."""
    return re.match(_PUBLISHED_FORM, file) is not None


def load_from_mmrev(filename: str, map_location: Any = None) -> Dict[str, Any]:
    """Load the published weights of ``mmrev://NAME``, NAME being that of a model in a metafile of mmrev.

    Raises:
        ProblemError: If there is no such model, it has no published weights, or they cannot be had.
    """
    from mmrev.converters import published
    name = filename.removeprefix('mmrev://')
    model = published.find_model(name)
    if model is None:
        known = ', '.join(model.name for model in published.models() if model.url)
        raise ProblemError(f'mmrev has no model `{name}`', f'Weights are published for {known}')
    if model.page is not None:
        raise ProblemError(
            f'the weights of `{model.name}` can be fetched by a browser alone, from {model.page}',
            f'Do so, convert them by {_CONVERTERS[model.config.split("/")[-2]]}, and give the path of the result')
    if model.url is None:
        raise ProblemError(
            f'no weights are published for `{model.name}`', 'Give the path of a checkpoint of yours instead; `mmrev '
            f'train mmrev::{model.config.removeprefix("configs/")}` makes one')
    return load_from_published_url(model.url, map_location)


def load_from_published_url(filename: str, map_location: Any = None) -> Dict[str, Any]:
    """Load weights from where they are published, or from a mirror that keeps the file names.

    The file is kept where torch keeps downloads (``TORCH_HOME``). In several processes the first one downloads.

    Raises:
        ProblemError: If they cannot be downloaded, or are not the published ones.
    """
    from mmengine.dist import barrier, is_main_process
    from mmengine.runner.checkpoint import load_from_http

    from mmrev.converters import published
    model = published.find_file(filename)
    if model is None:
        return load_from_http(filename, map_location)
    try:
        file = _download(filename, model) if is_main_process() else ''
    finally:
        barrier()  # the others must not wait for a first process that has failed
    return _load_published(file or _download(filename, model), model, map_location)


def _download(url: str, model: Any) -> str:
    """Download published weights unless they are there; return their path."""
    import torch

    file = os.path.join(torch.hub.get_dir(), 'checkpoints', os.path.basename(url))
    if os.path.isfile(file):
        return file
    try:
        os.makedirs(os.path.dirname(file), exist_ok=True)
        torch.hub.download_url_to_file(url, file, model.sha256, progress=sys.stderr.isatty())
    except OSError as error:
        raise ProblemError(f'the weights of {model.name} cannot be downloaded from {url}: {error}', 'Download them '
                              'elsewhere and give the path of the file') from error
    except RuntimeError as error:  # of torch, about the hash
        raise ProblemError(f'what {url} gave are not the published weights of {model.name}: {error}', 'Try again '
                              'later, or download them elsewhere and give the path of the file') from error
    return file


def load_from_published_file(filename: str, map_location: Any = None) -> Dict[str, Any]:
    """Load a file that may hold published weights, or weights of a RevBiFPN that was trained with the published code.

    Raises:
        ProblemError: If it has the name of a published file, but is another.
    """
    from mmengine.runner.checkpoint import load_from_local

    from mmrev.converters import published
    file = os.path.expanduser(filename)
    model = published.find_file(file)
    if model is not None and os.path.isfile(file):
        return _load_published(file, model, map_location)
    try:
        content = published.read(file, map_location)
    except ProblemError:
        return load_from_local(filename, map_location)  # not ours to refuse
    return published.convert(content, file) if published.published_weights(content) else content


def _load_published(file: str, model: Any, map_location: Any) -> Dict[str, Any]:
    """Check, read and convert a published file."""
    from mmrev.converters import published
    published.check_hash(file, model)
    return published.convert(published.read(file, map_location), file)
