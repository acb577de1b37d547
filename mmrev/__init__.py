"""Reversible and parameter-free networks for OpenMMLab, with a training memory that does not grow with depth.

`mmrev.reversible`, `mmrev.layers` and `mmrev.testing` need torch alone. Where mmengine is installed, importing this
package makes the scope `mmrev` known to its registries and configs; models are imported when one is first asked for.
"""
import warnings
from importlib.util import find_spec

__version__ = '0.1.0'

if find_spec('mmengine') is not None:
    try:
        from mmrev import checkpoints, registry  # noqa: F401
        checkpoints.allow_when_needed()
    except Exception as error:  # a broken mmengine must not take torch-only parts and `mmrev doctor` with it
        warnings.warn(f'mmengine is installed but cannot be imported ({type(error).__name__}: {error}), so no '
                      '`mmrev.*` type is registered; `python -m mmrev.doctor` says what mends it', stacklevel=2)
