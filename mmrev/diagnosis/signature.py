"""What a signature reveals about the keys and values of a config entry."""
import inspect
import sys
import types
import typing
from typing import Any, Callable, Dict, Tuple

import torch

from mmrev.problems import closest

_WITHOUT_TEXT = (int, float, tuple, list, type(None), torch.Tensor)


def parameters(built: Callable) -> Dict[str, inspect.Parameter]:
    """The parameters of a class or function; empty if it is written in C."""
    try:
        return dict(inspect.signature(built).parameters)
    except (ValueError, TypeError):
        return {}


def hints(built: Callable) -> Dict[str, Any]:
    """The type hints of the arguments; an argument without one is a number if its default is."""
    defaults = {name: type(parameter.default) for name, parameter in parameters(built).items()
                if isinstance(parameter.default, (int, float))}
    try:
        return {**defaults, **typing.get_type_hints(built.__init__ if inspect.isclass(built) else built)}
    except (NameError, TypeError, AttributeError):  # names that exist only for a type checker
        return defaults


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
    """Whether a string may be meant; False only for numbers and flags, and for tuples and lists of other types."""
    inner = typing.get_args(hint) if typing.get_origin(hint) in (tuple, list) else alternatives(hint)
    if inner != (hint, ):
        return any(takes_text(each, text, built) for each in inner if each is not ...)
    if hint is bool:  # some classes of mmdet take names as well, which are in their code: bias='qv_bias'
        return not closest(text.lower(), ('true', 'false', 'yes', 'no', 'on', 'off')) and repr(text) in source(built)
    return hint not in _WITHOUT_TEXT
