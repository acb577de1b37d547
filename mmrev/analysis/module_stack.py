"""Track which module of a model is running."""
from typing import Any, List

from torch import nn


class ModuleStack:
    """Within its context, tracks the path of the innermost module of ``model`` whose forward is running.

    A module that runs through a method other than its call (``head.predict(...)``) is not seen; the modules that it
    calls are.

    Attributes:
        path: Path of that module as in ``named_modules``; ``''`` means the model itself or no module.

    Example:
        >>> with ModuleStack(model) as running:
        ...     model(x)  # hooks, dispatch modes and the like may ask for running.path
    """

    def __init__(self, model: nn.Module):
        self._names = {module: name for name, module in model.named_modules()}
        self._paths: List[str] = ['']

    @property
    def path(self) -> str:
        return self._paths[-1]

    def path_of(self, module: nn.Module) -> str:
        """The path of a module; for a module outside the model, the path of the running one."""
        return self._names.get(module, self.path)

    def __enter__(self) -> 'ModuleStack':
        call = self._call = nn.Module.__call__

        def followed(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            self._paths.append(self.path_of(module))
            try:
                return call(module, *args, **kwargs)
            finally:
                self._paths.pop()

        nn.Module.__call__ = followed  # type: ignore[method-assign]  # where there are hooks, fused layers run as others
        return self

    def __exit__(self, *_: Any) -> None:
        nn.Module.__call__ = self._call  # type: ignore[method-assign]
