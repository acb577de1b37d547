"""Loaders for mmengine that check and convert published checkpoints.

Published weights have other names than those of mmrev. mmengine chooses a loader by the form of a path, so this module
adds three: for ``.pth.tar`` files and addresses, as they are published, and for ``mmrev://NAME``, the weights of a
model in a metafile. Whatever is not a published RevBiFPN is loaded as mmengine would.
"""
import os
import re
import sys
from typing import Any, Dict

from mmrev._after_import import after_import
from mmrev.problems import ProblemError, phase

from . import published
from .reading import find_weights, read
from .safe import allow_mmengine_checkpoints

UNREACHABLE = 'Check the address, or download the file elsewhere and give its path'  # a fix
_PUBLISHED_FORM = r'(?!\S*://).*(?:\.pth\.tar|revbifpn[^/]*)$'  # of a local path; the content of the file decides


def allow_when_needed() -> None:
    """Register the loaders as soon as the module of mmengine that loads checkpoints is imported.

    ``import mmrev`` then need not import torch, and the order in which mmrev and mmdet are imported does not matter.
    """
    after_import('mmengine.runner.checkpoint', _add_loaders)


def _add_loaders() -> None:
    from mmengine.runner.checkpoint import CheckpointLoader
    allow_mmengine_checkpoints()
    # Regular expressions, matched from the start of a path. mmengine tries them in descending alphabetical order: the
    # first comes before its own `https://`, the last only before its own for any file.
    for pattern, loader in ((r'https?://\S*\.pth\.tar$', load_from_published_url), ('mmrev://', load_from_mmrev),
                            (_PUBLISHED_FORM, load_from_published_file)):
        CheckpointLoader.register_scheme(pattern, loader, force=True)


def has_published_form(file: str) -> bool:
    """Whether mmengine loads this path by `load_from_published_file`."""
    return re.match(_PUBLISHED_FORM, file) is not None


def load_from_mmrev(filename: str, map_location: Any = None) -> Dict[str, Any]:
    """Load the published weights of ``mmrev://NAME``, where NAME is a model in a metafile of mmrev.

    Raises:
        ProblemError: If there is no such model, or its weights are not published or cannot be downloaded.
    """
    name = filename.removeprefix('mmrev://')
    model = published.find_model(name)
    if model is None:
        known = ', '.join(model.name for model in published.models() if model.url)
        raise ProblemError(f'mmrev has no model `{name}`', f'Weights are published for {known}')
    if model.page is not None:
        raise ProblemError(
            f'the weights of `{model.name}` can only be downloaded with a browser, from {model.page}',
            'Do so, convert them (mmrev convert SRC DST), and give the path of the result')
    if model.url is None:
        raise ProblemError(
            f'no weights are published for `{model.name}`', 'Give the path of a checkpoint of yours instead; `mmrev '
            f'train mmrev::{model.config.removeprefix("configs/")}` makes one')
    return load_from_published_url(model.url, map_location)


def load_from_published_url(filename: str, map_location: Any = None) -> Dict[str, Any]:
    """Load weights from their published address, or from a mirror that keeps the file names.

    The file is cached with torch's downloads (``TORCH_HOME``). Of several processes, the first one downloads.

    Raises:
        ProblemError: If the download fails, or the file is not the published one.
    """
    from mmengine.dist import barrier, is_main_process
    from mmengine.runner.checkpoint import load_from_http
    model = published.find_file(filename)
    if model is None:
        return load_from_http(filename, map_location)
    try:
        file = _download(filename, model) if is_main_process() else ''
    finally:
        barrier()  # the others must not wait for a first process that failed
    return _load_published(file or _download(filename, model), model, map_location)


def path_in_cache(url: str) -> str:
    """Where torch keeps what was downloaded from an address."""
    import torch
    return os.path.join(torch.hub.get_dir(), 'checkpoints', os.path.basename(url))


def _download(url: str, model: published.Model) -> str:
    """Download published weights unless they are cached; return their path."""
    import torch
    file = path_in_cache(url)
    if os.path.isfile(file):
        return file
    try:
        os.makedirs(os.path.dirname(file), exist_ok=True)
        torch.hub.download_url_to_file(url, file, model.sha256, progress=sys.stderr.isatty())
    except OSError as error:
        raise ProblemError(f'the weights of {model.name} cannot be downloaded from {url}: {error}', 'Download them '
                           'elsewhere and give the path of the file') from error
    except RuntimeError as error:  # torch's, about the hash
        raise ProblemError(f'the files from {url} are not the published weights of {model.name}: {error}', 'Try again '
                           'later, or download them elsewhere and give the path of the file') from error
    return file


def load_from_published_file(filename: str, map_location: Any = None) -> Dict[str, Any]:
    """Load a file that may hold published weights, or weights of a RevBiFPN that was trained with the published code.

    Raises:
        ProblemError: If it has the name of a published file, but another content.
    """
    from mmengine.runner.checkpoint import load_from_local
    file = os.path.expanduser(filename)
    model = published.find_file(file)
    if model is not None and os.path.isfile(file):
        return _load_published(file, model, map_location)
    try:
        content = read(file, map_location)
    except ProblemError:
        return load_from_local(filename, map_location)  # mmengine's loader decides
    from .conversion import convert
    from .families import CONVERTED_ON_LOAD
    from .family import Request
    known = any(find_weights(content, family.is_published_name) for family in CONVERTED_ON_LOAD)
    return convert(content, Request(file), CONVERTED_ON_LOAD) if known else content


def load_local(file: str) -> Dict[str, Any]:
    """Load a local checkpoint on the CPU as mmengine would, memory-mapped if the format allows it.

    Raises:
        ProblemError: If the file does not exist, cannot be read, or holds no dict.
    """
    file = os.path.expanduser(file)
    content = read(file, mmap=True) if has_published_form(file) else read(file, trusted=(), mmap=True)
    if has_published_form(file):
        content = load_from_published_file(file, 'cpu')
    if not isinstance(content, dict):
        raise ProblemError(f'checkpoint `{file}` holds a {type(content).__name__}, not a dict of weights',
                           'Give a checkpoint of a training run, or a state dict')
    return content


def load_any(source: str) -> Dict[str, Any]:
    """Load a checkpoint from a path or an address; what mmengine downloads stays in torch's cache.

    Raises:
        ProblemError: If it cannot be loaded.
    """
    if '://' not in source:
        return load_local(source)
    from mmengine.runner.checkpoint import CheckpointLoader
    with phase(f'loading `{source}`', UNREACHABLE):
        return CheckpointLoader.load_checkpoint(source, 'cpu')


def _load_published(file: str, model: published.Model, map_location: Any) -> Dict[str, Any]:
    """Check, read and convert a published file."""
    from .conversion import convert
    from .family import Request
    published.check_hash(file, model)
    return convert(read(file, map_location), Request(file, model))
