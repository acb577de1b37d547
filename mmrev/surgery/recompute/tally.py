"""Count the bytes that autograd stores of a forward, and those that it would have stored."""
from collections import Counter
from typing import Any, Iterable, List, Set

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from .recipe import Kept, Recipe, Saved, sources


class Tally:
    """Counts the storages that operators save, each once, by the torch function that ran.

    Args:
        exclude: Tensors that do not count, such as parameters.

    Attributes:
        function: Name of the running function.
        plain: Bytes that autograd would store, by the name of the function.
        kept: Bytes that autograd stores, by the name of the function; valid after :meth:`close`.
    """

    def __init__(self, exclude: Iterable[Tensor] = ()) -> None:
        self.function: Any = None
        self.plain: Counter = Counter()
        self.kept: Counter = Counter()
        self._excluded = {tensor.untyped_storage()._cdata for tensor in exclude if not is_lazy(tensor)}
        self._saved: List[tuple] = []

    def add(self, saved: Saved, storage: torch.UntypedStorage, entry: Any) -> None:
        """Count a tensor that an operator saved."""
        name = getattr(self.function, '__name__', 'other')
        self._saved.append((name, saved))
        if entry.counted is not self:
            entry.counted = self
            if storage._cdata not in self._excluded:
                self.plain[name] += storage.nbytes()

    def spare(self, tensor: Tensor) -> None:
        """Count a clone that autograd would have made."""
        self.plain[getattr(self.function, '__name__', 'other')] += tensor.untyped_storage().nbytes()

    def close(self) -> None:
        """Count what is stored, at the end of the forward."""
        seen: Set[int] = set(self._excluded)
        recipes: Set[int] = set()
        for name, saved in self._saved:
            todo: List[Any] = [saved.tensor if saved.source is None else saved.source]
            while todo:
                item = todo.pop()
                if isinstance(item, Tensor):
                    storage = item.untyped_storage()
                    if storage._cdata not in seen:
                        seen.add(storage._cdata)
                        self.kept[name] += storage.nbytes()
                elif type(item) is Kept:
                    todo.append(item.tensor)
                else:
                    recipe = item if type(item) is Recipe else item.recipe
                    if recipe.number not in recipes:
                        recipes.add(recipe.number)
                        todo += sources(recipe.args)
        self._saved = []
