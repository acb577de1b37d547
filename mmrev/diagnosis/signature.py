"""What a signature reveals about the keys and values of a config entry."""
import inspect
import sys
import types
import typing
from typing import Any, Callable, Dict, Tuple

import torch

from mmrev.problems import closest

_WITHOUT_TEXT = (int, float, tuple, list, dict, type(None), torch.Tensor)


def parameters(built: Callable) -> Dict[str, inspect.Parameter]:
    """The parameters of a class or function; empty if it is written in C."""
    try:
        return dict(inspect.signature(built).parameters)
    except (ValueError, TypeError):
        return {}


def hints(built: Callable) -> Dict[str, Any]:
    """The type hints of the arguments, also of base classes; an argument without one is a number if its default is."""
    found: Dict[str, Any] = {}
    for base in reversed(built.__mro__) if inspect.isclass(built) else [built]:
        found.update({name: type(parameter.default) for name, parameter in parameters(base).items()
                      if isinstance(parameter.default, (int, float))})
        try:
            found.update(typing.get_type_hints(base.__init__ if inspect.isclass(base) else base))
        except (NameError, TypeError, AttributeError):  # names that exist only for a type checker
            pass
    return found


def alternatives(hint: Any) -> Tuple[Any, ...]:
    """The alternatives of a hint such as ``Optional[Union[Hook, Dict]]``."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint, )


def source(built: Callable) -> str:
    """The text of the module that has a class or function; empty if it is written in C."""
    try:
        return inspect.getsource(sys.modules[built.__module__])
    except (OSError, TypeError, KeyError):
        return ''


def takes_text(hint: Any, text: str, built: Callable) -> bool:
    """Whether a string may be valid; False only for numbers and flags, and for tuples and lists of other types."""
    inner = typing.get_args(hint) if typing.get_origin(hint) in (tuple, list) else alternatives(hint)
    if inner != (hint, ):
        return any(takes_text(each, text, built) for each in inner if each is not ...)
    if hint is bool:  # some classes of mmdet take names as well, which are in their code: bias='qv_bias'
        return not closest(text.lower(), ('true', 'false', 'yes', 'no', 'on', 'off')) and repr(text) in source(built)
    return hint not in _WITHOUT_TEXT
