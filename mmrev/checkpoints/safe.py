"""What ``torch.load`` may construct besides tensors.

Since torch 2.6 ``torch.load`` refuses every class that it does not know (``weights_only=True`` is the default). The
checkpoints that mmengine's ``Runner`` writes hold the log history: `HistoryBuffer`, numpy arrays and numpy scalars. So
mmengine 0.10.7 cannot load what it saved itself. Exactly these are named as safe; the check stays on for all else.
"""
from pickle import UnpicklingError
from typing import Any, Callable, List, Tuple, Union

_STATISTICS = ('min', 'max', 'current', 'mean')  # the methods that a HistoryBuffer saves along with itself


def _history_method(owner: Any, name: str) -> Callable:
    """Stand in for ``builtins.getattr``, by which pickle names a method such as ``HistoryBuffer.min``.

    Raises:
        UnpicklingError: If the checkpoint asks for anything but a statistics method of `HistoryBuffer`.
    """
    from mmengine.logging import HistoryBuffer
    if owner is not HistoryBuffer or name not in _STATISTICS:
        raise UnpicklingError(f'A checkpoint may name {_STATISTICS} of HistoryBuffer, but this one asks for '
                              f'`{name}` of {owner!r}')
    return getattr(HistoryBuffer, name)


def safe_globals() -> List[Union[type, Tuple[Callable, str]]]:
    """What ``torch.serialization.add_safe_globals`` takes: the classes and functions in a checkpoint of mmengine."""
    import numpy as np
    from mmengine.logging import HistoryBuffer
    reconstruct, scalar = np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0]
    # NumPy 2 moved them from `core` to `_core`; a checkpoint has the name of the version that wrote it.
    renamed = [(function, f'numpy.{core}.multiarray.{name}') for core in ('core', '_core')
               for name, function in (('_reconstruct', reconstruct), ('scalar', scalar))]
    dtypes = {type(np.dtype(code)) for code in np.typecodes['AllFloat'] + np.typecodes['AllInteger'] + '?'}
    return [HistoryBuffer, np.ndarray, np.dtype, *dtypes, *renamed, (_history_method, 'builtins.getattr')]


def allow_mmengine_checkpoints() -> None:
    """Let ``torch.load`` read mmengine's own checkpoints, with ``weights_only`` on.

    Resuming, testing, and mmdet's ``init_detector`` and ``DetInferencer`` have it from ``import mmrev`` already, see
    `allow_when_needed`; a program that calls ``torch.load`` itself calls this first. Calling it again does no harm.
    """
    from mmrev.compat import add_safe_globals
    add_safe_globals(safe_globals())
