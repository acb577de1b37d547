"""The published checkpoints where mmengine loads them: converted and checked on the way.

The published weights have other names than ours. mmengine chooses a loader by the form of a path, so three are added:
``.pth.tar`` files and addresses, as they are published, and ``mmrev://NAME`` for the weights of a model in a metafile.
Whatever is no published RevBiFPN is loaded as mmengine would.
"""
import os
import re
import sys
from typing import Any, Dict

from mmrev._after_import import after_import
from mmrev.problems import ProblemError

from . import published
from .reading import find_weights, read
from .safe import allow_mmengine_checkpoints

_PUBLISHED_FORM = r'(?!\S*://).*(?:\.pth\.tar|revbifpn[^/]*)$'  # of a local path; what the file holds decides


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
    name = filename.removeprefix('mmrev://')
    model = published.find_model(name)
    if model is None:
        known = ', '.join(model.name for model in published.models() if model.url)
        raise ProblemError(f'mmrev has no model `{name}`', f'Weights are published for {known}')
    if model.page is not None:
        raise ProblemError(
            f'the weights of `{model.name}` can be fetched by a browser alone, from {model.page}',
            'Do so, convert them (mmrev convert SRC DST), and give the path of the result')
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
    model = published.find_file(filename)
    if model is None:
        return load_from_http(filename, map_location)
    try:
        file = _download(filename, model) if is_main_process() else ''
    finally:
        barrier()  # the others must not wait for a first process that has failed
    return _load_published(file or _download(filename, model), model, map_location)


def _download(url: str, model: published.Model) -> str:
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
    file = os.path.expanduser(filename)
    model = published.find_file(file)
    if model is not None and os.path.isfile(file):
        return _load_published(file, model, map_location)
    try:
        content = read(file, map_location)
    except ProblemError:
        return load_from_local(filename, map_location)  # not ours to refuse
    from .conversion import convert
    from .families import CONVERTED_ON_LOAD
    from .family import Request
    known = any(find_weights(content, family.is_published_name) for family in CONVERTED_ON_LOAD)
    return convert(content, Request(file), CONVERTED_ON_LOAD) if known else content


def load_local(file: str) -> Dict[str, Any]:
    """Load a local checkpoint on the CPU as mmengine would, mapped from disk where the format allows it.

    Raises:
        ProblemError: If it is not there, cannot be read, or holds no dict.
    """
    file = os.path.expanduser(file)
    content = read(file, mmap=True) if has_published_form(file) else read(file, trusted=(), mmap=True)
    if has_published_form(file):
        content = load_from_published_file(file, 'cpu')
    if not isinstance(content, dict):
        raise ProblemError(f'checkpoint `{file}` holds a {type(content).__name__}, not a dict of weights')
    return content


def _load_published(file: str, model: published.Model, map_location: Any) -> Dict[str, Any]:
    """Check, read and convert a published file."""
    from .conversion import convert
    from .family import Request
    published.check_hash(file, model)
    return convert(read(file, map_location), Request(file, model))
