"""Which module of a model runs now."""
from typing import Any, List

from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook


class ModuleStack:
    """Knows, within its context, the path of the innermost module of ``model`` whose forward runs.

    A module that is run by another method than its call (``head.predict(...)``) is not seen, those that it calls are.

    Attributes:
        path: Of that module, as in ``named_modules``; ``''`` stands for the model itself and for no module at all.

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
        """The path of any module; of one that is not the model's, that of the module that runs now."""
        return self._names.get(module, self.path)

    def __enter__(self) -> 'ModuleStack':
        self._handles = [register_module_forward_pre_hook(self._enter),
                         register_module_forward_hook(self._leave, always_call=True)]
        return self

    def __exit__(self, *_: Any) -> None:
        for handle in self._handles:
            handle.remove()

    def _enter(self, module: nn.Module, _: Any) -> None:
        self._paths.append(self.path_of(module))

    def _leave(self, *_: Any) -> None:
        self._paths.pop()
