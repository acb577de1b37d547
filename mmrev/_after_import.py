"""Run an action as soon as a module of another package has been imported.

``import mmrev`` extends mmengine and mmpretrain this way without importing their heavy parts, in either import order.
"""
import importlib.util
import sys
from typing import Any, Callable


def after_import(name: str, action: Callable[[], None]) -> None:
    """Call `action` once the module `name` has been imported, or now if it already has.

    Args:
        name: Absolute name of a module; it need not be installed.
        action: Called without arguments. The import raises what it raises.
    """
    if name in sys.modules:
        action()
    else:
        sys.meta_path.insert(0, _Notice(name, action))


class _Notice:
    """A meta path finder that delegates to the others, and runs the action after the code of one module."""

    def __init__(self, name: str, action: Callable[[], None]):
        self.name = name
        self.action = action

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """See `importlib.abc.MetaPathFinder.find_spec`."""
        if name != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and hasattr(spec.loader, 'exec_module'):
            self._follow(spec.loader)
        return spec

    def _follow(self, loader: Any) -> None:
        """Make the module's own loader run the action after the module's code."""

        def exec_module(module: Any) -> None:
            del loader.exec_module
            loader.exec_module(module)
            self.action()

        loader.exec_module = exec_module
