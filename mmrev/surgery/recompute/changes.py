"""Which functions change a tensor in place, or return an alias through which it can change undetected."""
import inspect
from functools import lru_cache
from typing import Any, Callable, Dict, Optional, Sequence

from torch import Tensor

# Their results share memory with the tensor, but not its version.
shares_without_version = frozenset([Tensor.data.__get__, Tensor.numpy, Tensor.__array__, Tensor.__dlpack__])

_OPERATORS = frozenset(f'__i{name}__' for name in (
    'add', 'sub', 'mul', 'truediv', 'floordiv', 'mod', 'pow', 'and', 'or', 'xor', 'lshift', 'rshift')) | {'__setitem__'}


def changed_argument(function: Callable, args: Sequence[Any], kwargs: Optional[Dict[str, Any]]) -> Any:
    """The tensor, or the list of tensors, that a call changes in place; ``None`` if it changes none."""
    place = _flag(function)
    if place == ALWAYS or place is not None and (
            place < len(args) and args[place] or kwargs and kwargs.get('inplace')):
        return args[0] if args else next(iter(kwargs.values()))  # a keyword such as `input`
    return kwargs.get('out') if kwargs else None


ALWAYS = -1


@lru_cache(maxsize=None)
def _flag(function: Callable) -> Optional[int]:
    """Place of the parameter ``inplace``, or ``ALWAYS`` for functions such as ``torch.relu_``."""
    name = getattr(function, '__name__', '').split('.')[0]
    if name in _OPERATORS or name.endswith('_') and not name.endswith('__'):
        return ALWAYS
    if not inspect.isfunction(function):
        return None
    names = list(inspect.signature(function, follow_wrapped=False).parameters)
    return names.index('inplace') if 'inplace' in names else None
