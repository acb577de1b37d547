"""What the model converters in ``tools/`` share: checks of the paths, and a result that appears only when complete."""
import os
from typing import Callable, Tuple

from mmrev.cli.errors import users_input
from mmrev.problems import ProblemError


def convert_file(src: str, dst: str, convert: Callable[[], Tuple[dict, str]]) -> None:
    """Convert a checkpoint and write the result.

    Args:
        src: File to convert.
        dst: File to write; it appears only when it is complete.
        convert: Gives the converted checkpoint, and in words what it is of.

    Raises:
        ProblemError: If it cannot be written there, or where `convert` raises that.
    """
    folder = os.path.dirname(os.path.abspath(dst))
    if not os.path.isdir(folder):
        raise ProblemError(f'folder `{folder}` does not exist', 'Make it, or name another one')
    if os.path.isdir(dst):
        raise ProblemError(f'`{dst}` is a folder', 'Name the file to write in it')
    if os.path.exists(dst) and os.path.exists(src) and os.path.samefile(src, dst):
        raise ProblemError(f'`{dst}` is the file to convert', 'Name another file to write')
    with users_input('PyTorch and PyYAML are needed', '`mmrev doctor` says how to install what is missing'):
        import torch
        import yaml  # noqa: F401
    checkpoint, origin = convert()
    partial = f'{dst}.{os.getpid()}.partial'
    try:
        with users_input(f'`{dst}` cannot be written'):
            torch.save(checkpoint, partial)
            os.replace(partial, dst)
    finally:
        if os.path.exists(partial):
            os.remove(partial)
    print(f'{dst}: {len(checkpoint["state_dict"]):,} tensors of {origin}')
