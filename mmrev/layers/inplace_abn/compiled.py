"""The compiled package ``inplace_abn``, for users who ask for it."""
import importlib
from types import ModuleType
from typing import Optional

from torch import Tensor

from .statistics import Settings

BACKENDS = ('auto', 'torch', 'inplace_abn')


def package(backend: str) -> Optional[ModuleType]:
    """The package, or ``None`` where PyTorch's operators are to be used.

    ``'auto'`` means PyTorch, on every device: the package overwrites its input and supports neither ``relu``
    nor bfloat16.

    Raises:
        ValueError: If there is no such backend.
        ImportError: If it is requested but not installed.
    """
    if backend not in BACKENDS:
        raise ValueError(f'`backend` must be one of {", ".join(map(repr, BACKENDS))}; got {backend!r}')
    if backend != 'inplace_abn':
        return None
    try:
        return importlib.import_module('inplace_abn')
    except ImportError as error:
        raise ImportError(f"`backend='inplace_abn'` needs the compiled package ({error}); `pip install inplace-abn` "
                          f"builds it, or use `backend='torch'`, which computes the same") from error


def run(module: ModuleType, x: Tensor, weight: Optional[Tensor], bias: Optional[Tensor], s: Settings) -> Tensor:
    """Overwrites ``x`` with the result, as the package does."""
    if s.activation.name == 'relu':
        raise ValueError(f"{s.name}: the compiled package has no `relu`; use `backend='torch'`")
    arguments = (x, weight, bias, s.running_mean, s.running_var, s.batch, s.momentum, s.eps, s.activation.name,
                 s.activation.param)
    if s.sync:
        return module.inplace_abn_sync(*arguments, group=s.group)
    return module.inplace_abn(*arguments)
