"""Publish a checkpoint: write its weights to a file whose name contains their hash."""
import os
import tempfile
from pathlib import Path
from typing import Any, Dict, Optional

from mmrev.problems import ProblemError, phase

from . import published
from .loaders import load_local
from .reading import holds_numbers, no_numbers, read

# Keys of mmengine's `meta` to keep. The others describe the machine: paths in the config, environment, time.
_META = ('dataset_meta', 'epoch', 'iter', 'mmengine_version')


def publish(checkpoint: str, out: Optional[str] = None) -> str:
    """Write only the weights of a checkpoint to a file.

    mmengine's `EMAHook` saves the averaged weights as those of the model, so these are published if a run had it. The
    name ends in the first eight digits of the file's SHA-256, which torch.hub checks. Equal weights produce identical
    files.

    Args:
        checkpoint: File of a training run, or another file with weights.
        out: File to write, without the hash; by default next to the checkpoint.

    Returns:
        A description of the file that was written.

    Raises:
        ProblemError: If the checkpoint cannot be read or holds no weights or NaN, or the result cannot be written.
    """
    import torch
    content = load_local(checkpoint)
    weights = {name.removeprefix('module.'): value.detach().cpu().clone()
               for name, value in content.get('state_dict', content).items() if isinstance(value, torch.Tensor)}
    if not weights:
        raise ProblemError(f'checkpoint `{checkpoint}` holds no weights', 'Give a checkpoint of a training run')
    for name, value in weights.items():
        if not holds_numbers(value, value):
            raise no_numbers(checkpoint, name, value)
    target = Path(out or checkpoint)
    if os.path.isdir(target):
        raise ProblemError(f'`{target}` is a folder', 'Name the file to write in it')
    if not os.path.isdir(target.parent):
        raise ProblemError(f'folder `{target.parent}` does not exist', 'Create it, or choose another one')
    with phase(f'writing next to `{target}`', 'Free space, or make the folder writable'), \
            tempfile.TemporaryDirectory(dir=target.parent) as folder:
        partial = os.path.join(folder, 'weights.pth')  # the file contains this name
        torch.save(dict(state_dict=weights, meta=_meta(content)), partial)
        read(partial, trusted=())
        file = target.with_name(f'{target.name.removesuffix(".pth")}-{published.sha256_of(partial)[:8]}.pth')
        os.replace(partial, file)
    averaged = ', averaged by EMAHook' * ('ema_state_dict' in content)
    before, after = (os.path.getsize(path) / 2**20 for path in (checkpoint, file))
    return f'{file}: {len(weights):,} tensors{averaged}; {after:.1f} MiB, of {before:.1f}'


def _meta(content: Dict[str, Any]) -> Dict[str, Any]:
    from mmrev import __version__
    meta = content.get('meta') or {}
    return dict({key: meta[key] for key in _META if key in meta}, mmrev_version=__version__)
