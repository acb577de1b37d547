"""What a checkpoint of mmengine holds besides weights, made known to ``torch.load``.

Since torch 2.6 ``torch.load`` refuses every class that it does not know (``weights_only=True`` is the default). The
checkpoints that mmengine's ``Runner`` writes hold the log history: `HistoryBuffer`, numpy arrays and numpy scalars. So
mmengine 0.10.7 cannot load what it saved itself. We name exactly these as safe; the check stays on for all else.
"""
import sys
from pickle import UnpicklingError
from typing import Any, Callable, List, Tuple, Union

import numpy as np
from mmengine.logging import HistoryBuffer

_STATISTICS = ('min', 'max', 'current', 'mean')  # the methods that a HistoryBuffer saves along with itself


def _history_method(owner: Any, name: str) -> Callable:
    """Stand in for ``builtins.getattr``, by which pickle names a method such as ``HistoryBuffer.min``.

    Raises:
        UnpicklingError: If the checkpoint asks for anything but a statistics method of `HistoryBuffer`.
    """
    if owner is not HistoryBuffer or name not in _STATISTICS:
        raise UnpicklingError(f'A checkpoint may name {_STATISTICS} of HistoryBuffer, but this one asks for '
                              f'`{name}` of {owner!r}')
    return getattr(HistoryBuffer, name)


def _safe_globals() -> List[Union[type, Tuple[Callable, str]]]:
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
    torch.serialization.add_safe_globals(_safe_globals())


def allow_when_needed() -> None:
    """Call `allow_mmengine_checkpoints` as soon as ``mmengine.runner``, which loads checkpoints, is imported.

    So ``import mmrev`` need not import torch, and it does not matter whether mmrev or mmdet is imported first.
    """
    if 'mmengine.runner' in sys.modules:
        allow_mmengine_checkpoints()
    else:
        sys.meta_path.insert(0, _RunnerNotice())


class _RunnerNotice:
    """A finder of modules that finds none; it is only told that ``mmengine.runner`` is being imported."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """See `importlib.abc.MetaPathFinder.find_spec`."""
        if name == 'mmengine.runner':
            sys.meta_path.remove(self)
            allow_mmengine_checkpoints()
