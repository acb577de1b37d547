"""Whether the modules of a sequence are as they were, except for the values of parameters and buffers."""
from itertools import chain
from typing import Any, List, Sequence, Tuple

from torch import nn

from mmrev import compat

from .function import is_training


class Signature:
    """The flags, children and hooks of modules, and how many parameters and buffers they have.

    Args:
        root: The sequence, of which only the children matter.
        modules: The modules below it.
    """

    def __init__(self, root: nn.Module, modules: Sequence[nn.Module]):
        self._modules = modules
        self._hooks = [hooks for m in modules for hooks in (m._forward_hooks, m._forward_pre_hooks)]
        self._tables: List[Any] = [m._buffers for m in modules]
        self._tables += [m._parameters for m in modules if not m._parameters]  # the others are compared at each step
        self._children = [m._modules.values() for m in (root, *modules)]
        self._before = self._now()

    def holds(self) -> bool:
        return self._now() == self._before

    def _now(self) -> Tuple[Any, ...]:
        return (compat.global_hooks(), list(map(is_training, self._modules)), list(map(len, self._tables)),
                list(chain.from_iterable(self._children)), list(map(list, filter(None, self._hooks))))
