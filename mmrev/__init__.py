"""Reversible and parameter-free networks for OpenMMLab, with a training memory that does not grow with depth.

`mmrev.reversible`, `mmrev.layers` and `mmrev.testing` require only PyTorch. If mmengine is installed, importing this
package makes the scope `mmrev` known to its registries and configs; models are imported on first use.
"""
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__version__ = '0.2.0'


def config_path(name: str) -> str:
    """Return the path of a config of this package, for programs that read configs before they import mmrev.

    mmengine reads ``_base_`` before ``custom_imports``, so mmdet's own tools do not know ``mmrev::...``. They do
    evaluate the line: ``_base_ = __import__('mmrev').config_path('revbifpn/faster_rcnn_revbifpn_s3.py')``.

    Args:
        name: Path below ``configs/``.

    Raises:
        FileNotFoundError: If there is no such config.
    """
    folder = Path(__file__).parent / '.mim' / 'configs'
    if not (folder / name).is_file():
        near = sorted(path.name for path in (folder / name).parent.glob('*.py'))
        raise FileNotFoundError(f'mmrev has no config `{name}`; in that folder it has {", ".join(near) or "nothing"}')
    return str(folder / name)


def __getattr__(name: str) -> Any:
    """`mmrev.save_memory`, which needs torch."""
    if name == 'save_memory':
        from mmrev.surgery.recomputation import save_memory
        return save_memory
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


if find_spec('mmengine') is not None:
    try:
        from mmrev import checkpoints, registry  # noqa: F401
        checkpoints.allow_when_needed()
    except Exception as error:  # a broken mmengine must not take torch-only parts and `mmrev doctor` with it
        warnings.warn('mmengine is installed, but no `mmrev.*` type could be registered with it '
                      f'({type(error).__name__}: {error}); `python -m mmrev.doctor` shows how to fix it', stacklevel=2)
