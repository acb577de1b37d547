"""The class that a config entry names: do the entry's keys and values fit its signature?"""
import inspect
import types
import typing
from typing import Any, Callable, Dict, Optional, Sequence

import torch
from mmengine.registry import Registry

from mmrev.problems import ProblemError, closest


_OF_EVERY_ENTRY = ('type', '_scope_', 'priority')
_TRUTHS = ('true', 'false', 'yes', 'no', 'on', 'off')
_WITHOUT_TEXT = (int, float, tuple, list, type(None), torch.Tensor)


def check_keys(built: Callable, entry: dict, path: str, file: str, besides: Sequence[str] = (),
               passed_on: Optional[Callable] = None) -> None:
    """Check that an entry's keys are arguments of what it builds, as far as its signature says.

    Args:
        built: The class or function.
        entry: Its config.
        path: Where that is in the config.
        file: The config, for the message.
        besides: Keys that something else takes.
        passed_on: What gets the keys that `built` takes as ``**kwargs``, if that is known.

    Raises:
        ProblemError: If a key is none.
    """
    parameters = {**_parameters(built), **(_parameters(passed_on) if passed_on else {})}
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    if takes_any and passed_on is None or not parameters:
        return
    for key in entry:
        if key not in parameters and key not in (*_OF_EVERY_ENTRY, *besides):
            raise ProblemError(f'`{path}.{key}`: {_name(built)} has no argument `{key}`',
                            f'{closest(key, [*parameters, *besides])}Mend it in {file}')


def check_values(built: Callable, entry: dict, path: str, file: str) -> None:
    """Check that no value is a text where the signature says numbers; the command line makes a text of any misspelling.

    Args:
        built: The class or function.
        entry: Its config.
        path: Where that is in the config.
        file: The config, for the message.

    Raises:
        ProblemError: If one is.
    """
    texts = [key for key, value in entry.items() if isinstance(value, str) and key not in _OF_EVERY_ENTRY]
    annotations = _annotations(built) if texts else {}
    for key in texts:
        if key in annotations and not _takes_text(annotations[key], entry[key]):
            raise ProblemError(f'`{path}.{key}` is the text `{entry[key]}`; {_name(built)} takes '
                            f'{inspect.formatannotation(annotations[key])} there', f'Mend it in {file}, or override it '
                            f'with --cfg-options {path}.{key}=VALUE')


def registry_class(name: Any, registry: Registry, scope: Optional[str] = None) -> Any:
    """The class or function of that name in a registry, as seen from a scope; `None` if there is none."""
    if not isinstance(name, str):
        return name  # configs in Python name the class itself
    with registry.switch_scope_and_registry(scope) as scoped:
        try:
            return scoped.get(name)
        except RuntimeError:  # mmengine: "Failed to get ..."
            return None


def _parameters(built: Callable) -> Dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(built).parameters)
    except (ValueError, TypeError):  # written in C, without one
        return {}


def _annotations(built: Callable) -> Dict[str, Any]:
    """What an argument may be; where that is not written, as its default is."""
    defaults = {name: type(parameter.default) for name, parameter in _parameters(built).items()
                if isinstance(parameter.default, (int, float))}
    try:
        return {**defaults, **typing.get_type_hints(built.__init__ if inspect.isclass(built) else built)}
    except (NameError, TypeError, AttributeError):  # names that only a type checker can see
        return defaults


def _takes_text(annotation: Any, text: str) -> bool:
    """Whether a text may be meant; `False` only for numbers, and for tuples and lists of what is no text."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType, tuple, list):
        return any(_takes_text(inner, text) for inner in typing.get_args(annotation) if inner is not ...)
    if annotation is bool:  # some classes of the hosts take names as well: bias='qv_bias'
        return not closest(text.lower(), _TRUTHS)
    return annotation not in _WITHOUT_TEXT


def _name(built: Callable) -> str:
    return getattr(built, '__name__', str(built))
