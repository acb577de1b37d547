"""What a signature says about the keys and values of the config entry that is passed to it."""
import inspect
import types
import typing
from typing import Any, Callable, Dict, Iterator

import torch

from mmrev.problems import closest

_TRUTHS = ('true', 'false', 'yes', 'no', 'on', 'off')
_WITHOUT_TEXT = (int, float, tuple, list, type(None), torch.Tensor)


def parameters(built: Callable) -> Dict[str, inspect.Parameter]:
    """The parameters of a class or function; none where that is written in C."""
    try:
        return dict(inspect.signature(built).parameters)
    except (ValueError, TypeError):
        return {}


def hints(built: Callable) -> Dict[str, Any]:
    """What an argument may be; where that is not written, a number where its default is one."""
    defaults = {name: type(parameter.default) for name, parameter in parameters(built).items()
                if isinstance(parameter.default, (int, float))}
    try:
        return {**defaults, **typing.get_type_hints(built.__init__ if inspect.isclass(built) else built)}
    except (NameError, TypeError, AttributeError):  # names that only a type checker can see
        return defaults


def classes(hint: Any) -> Iterator[type]:
    """The classes that a hint such as ``Optional[Union[Hook, Dict]]`` names."""
    origin = typing.get_origin(hint)
    for inner in typing.get_args(hint) if origin in (typing.Union, types.UnionType) else ():
        yield from classes(inner)
    if origin not in (typing.Union, types.UnionType):
        yield origin or hint


def takes_text(hint: Any, text: str) -> bool:
    """Whether a text may be meant; False only for numbers, and for tuples and lists of what is no text."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType, tuple, list):
        return any(takes_text(inner, text) for inner in typing.get_args(hint) if inner is not ...)
    if hint is bool:  # some classes of the hosts take names as well: bias='qv_bias'
        return not closest(text.lower(), _TRUTHS)
    return hint not in _WITHOUT_TEXT
