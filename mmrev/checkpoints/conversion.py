"""Convert a checkpoint of any family into one that mmengine loads into the models of this package."""
import os
from typing import Any, Dict, Iterable, Optional, Tuple

import torch
from torch import Tensor

from mmrev.problems import ProblemError, phase

from . import published
from .families import FAMILIES
from .family import Family, Request, Weights
from .reading import find_weights, read


def convert(content: Any, request: Request, families: Optional[Iterable[Family]] = None) -> Dict[str, Any]:
    """Convert the content of a checkpoint file.

    Args:
        content: Result of `read`.
        request: Source of the content, and options.
        families: Families to try; all by default.

    Returns:
        ``{'state_dict': ..., 'meta': ...}``.

    Raises:
        ProblemError: If it belongs to none of these families, is incomplete, or has a value under such a name that is
            not a tensor.
    """
    families = tuple(FAMILIES.values() if families is None else families)
    refused = None
    for family in families:
        weights = find_weights(content, family.is_published_name)
        if weights is not None:
            try:
                return _convert(weights, request, family)
            except ProblemError as error:
                refused = refused or error  # families share some names
    raise refused or _unknown(content, request.file, families)


def _convert(weights: Weights, request: Request, family: Family) -> Dict[str, Any]:
    foreign = f'`{request.file}` is not a checkpoint of {family.of}'
    for key, value in weights.items():
        if not isinstance(value, Tensor):
            raise ProblemError(f'{foreign}: `{key}` is a {type(value).__name__}, not a tensor', f'Give {family.source}')
    if family.adapt is None and (request.trained_with or request.target):
        raise ProblemError(f'`{request.file}` is a checkpoint of {family.of}, whose norms cannot be changed',
                           'Leave out --trained-with and --for')
    weights, facts = family.adapt(weights, request) if family.adapt else (weights, {})
    try:
        converted = family.convert(weights)
        family.check_complete(converted)
    except KeyError as error:
        raise ProblemError(f'{foreign}: {error.args[0]}', f'Give {family.source}') from error
    return dict(state_dict=converted, meta=dict(converted_from=os.path.basename(request.file), family=family.name,
                                                **facts))


def _unknown(content: Any, file: str, families: Tuple[Family, ...]) -> ProblemError:
    """Report that no weight has a name of any family."""
    held = content.get('state_dict', content) if isinstance(content, dict) else {}
    if isinstance(held, dict) and any(str(key).startswith('backbone.') for key in held):
        return ProblemError(f'`{file}` has names of OpenMMLab already', 'Load it as it is')
    *first, last = [family.of for family in families]
    listed = f'{", ".join(first)} or {last}' if first else last
    fix = families[0].source if len(families) == 1 else 'an unmodified checkpoint of its publisher'
    return ProblemError(f'`{file}` is not a checkpoint of {listed}: no weight in it is named as published',
                        f'Give {fix}')


def convert_file(src: str, dst: str, families: Optional[Iterable[Family]] = None, any_hash: bool = False,
                 **norms: Optional[str]) -> str:
    """Convert a checkpoint file and write the result. The file appears only after it is complete.

    Args:
        src: File to convert.
        dst: File to write.
        families: See `convert`.
        any_hash: Also convert a file that has the name or family of a published file, but another hash.
        **norms: ``trained_with`` and ``target`` of `Request`.

    Returns:
        A sentence about the file that was written, and its model.

    Raises:
        ProblemError: If `src` cannot be converted, or `dst` cannot be written.
    """
    _check_destination(src, dst)
    content = read(src)
    sha256, md5 = published.sha256_of(src), published.md5_of(src)
    named, model = published.find_file(src), published.find_digest(sha256, md5)
    if named is not None and not any_hash:
        published.check_hash(src, named, sha256)
    checkpoint = convert(content, Request(src, model, md5, any_hash, **norms), families)
    from mmrev import __version__
    checkpoint['meta'].update(converted_from_sha256=sha256, converted_from_md5=md5, mmrev_version=__version__)
    partial = f'{dst}.{os.getpid()}.partial'
    try:
        with phase(f'writing `{dst}`', 'Free space, or make the folder writable'):
            torch.save(checkpoint, partial)
            os.replace(partial, dst)
    finally:
        if os.path.exists(partial):
            os.remove(partial)
    origin = f'{model.name}, the published file' if model else f'{src}, which is not a published file'
    terms = f'; license: {checkpoint["meta"]["license"]}' if 'license' in checkpoint['meta'] else ''
    return f'{dst}: {len(checkpoint["state_dict"]):,} tensors of {origin}{terms}'


def _check_destination(src: str, dst: str) -> None:
    folder = os.path.dirname(os.path.abspath(dst))
    if not os.path.isdir(folder):
        raise ProblemError(f'folder `{folder}` does not exist', 'Create it, or choose another one')
    if os.path.isdir(dst):
        raise ProblemError(f'`{dst}` is a folder', 'Name the file to write in it')
    if os.path.exists(dst) and os.path.exists(src) and os.path.samefile(src, dst):
        raise ProblemError(f'`{dst}` is the file to convert', 'Name another file to write')
