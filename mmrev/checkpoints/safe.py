"""Classes that ``torch.load`` may construct in addition to tensors.

Since torch 2.6, ``torch.load`` refuses unknown classes (``weights_only=True`` is the default). Checkpoints of
mmengine's ``Runner`` contain the log history: `HistoryBuffer`, numpy arrays and scalars. So mmengine 0.10.7 cannot load
its own checkpoints. This module declares exactly these classes as safe; the check stays on for everything else.
"""
from pickle import UnpicklingError
from typing import Any, Callable, List, Tuple, Union

_STATISTICS = ('min', 'max', 'current', 'mean')  # methods that are pickled with a HistoryBuffer


def _history_method(owner: Any, name: str) -> Callable:
    """Replace ``builtins.getattr``, with which pickle refers to a method such as ``HistoryBuffer.min``.

    Raises:
        UnpicklingError: If the checkpoint refers to anything but a statistics method of `HistoryBuffer`.
    """
    from mmengine.logging import HistoryBuffer
    if owner is not HistoryBuffer or name not in _STATISTICS:
        raise UnpicklingError(f'A checkpoint may name {_STATISTICS} of HistoryBuffer, but this one asks for '
                              f'`{name}` of {owner!r}')
    return getattr(HistoryBuffer, name)


def safe_globals() -> List[Union[type, Tuple[Callable, str]]]:
    """Classes and functions in a checkpoint of mmengine, for ``torch.serialization.add_safe_globals``."""
    import numpy as np
    from mmengine.logging import HistoryBuffer
    reconstruct, scalar = np.empty(0).__reduce__()[0], np.float64(0).__reduce__()[0]
    # NumPy 2 moved them from `core` to `_core`; a checkpoint has the names of the version that wrote it.
    renamed = [(function, f'numpy.{core}.multiarray.{name}') for core in ('core', '_core')
               for name, function in (('_reconstruct', reconstruct), ('scalar', scalar))]
    dtypes = {type(np.dtype(code)) for code in np.typecodes['AllFloat'] + np.typecodes['AllInteger'] + '?'}
    return [HistoryBuffer, np.ndarray, np.dtype, *dtypes, *renamed, (_history_method, 'builtins.getattr')]


def allow_mmengine_checkpoints() -> None:
    """Allow ``torch.load`` to read mmengine's checkpoints with ``weights_only=True``.

    ``import mmrev`` enables this for resuming, testing, and mmdet's ``init_detector`` and ``DetInferencer``, see
    `allow_when_needed`. A program that calls ``torch.load`` itself calls this first. Further calls have no effect.
    """
    from mmrev.compat import add_safe_globals
    add_safe_globals(safe_globals())
