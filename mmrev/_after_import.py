"""Something to do as soon as another package's module has been imported, by whoever needs it.

So ``import mmrev`` can add to mmengine and mmpretrain without importing their heavy parts itself, whichever of them is
imported first.
"""
import importlib.util
import sys
from typing import Any, Callable


def after_import(name: str, action: Callable[[], None]) -> None:
    """Call `action` once the module `name` has been imported; at once if it has been.

    Args:
        name: Absolute name of a module; it need not be installed.
        action: Takes nothing; what it raises, the import raises.
    """
    if name in sys.modules:
        action()
    else:
        sys.meta_path.insert(0, _Notice(name, action))


class _Notice:
    """A finder that leaves finding to the others; it has the action run after one module's code."""

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
        """Let this loader, which is the module's own, run the action after the module's code."""

        def exec_module(module: Any) -> None:
            del loader.exec_module
            loader.exec_module(module)
            self.action()

        loader.exec_module = exec_module
