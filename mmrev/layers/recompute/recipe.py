"""How a tensor follows from others that are kept anyway, and the tensors that backward makes of it again."""
from contextlib import ExitStack
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor

_CHANGED = ('one of the variables needed for gradient computation has been modified by an inplace operation: a tensor of '
            'shape {} is at version {}; expected version {} instead. `mmrev.save_memory` computes other tensors from it '
            'again in backward')


class Values:
    """What backward has computed again and will read once more.

    A backward visits the operators in reverse order, so once it reads what an operator saved, it has done with the
    values of all recipes of later operators.
    """

    def __init__(self) -> None:
        self.operator = 0  # that forward calls, counted
        self.count = 0  # of recipes
        self._alive: Dict[int, Tuple[int, Any]] = {}  # by the number of a recipe: its operator, its value
        self._latest = -1

    def get(self, recipe: 'Recipe') -> Any:
        return self._alive.get(recipe.number, _NOTHING)[1]

    def put(self, recipe: 'Recipe', value: Any) -> None:
        self._alive[recipe.number] = recipe.operator, value
        self._latest = max(self._latest, recipe.operator)

    def drop(self, recipe: 'Recipe') -> None:
        self._alive.pop(recipe.number, None)

    def drop_after(self, operator: int) -> None:
        """Drop the values of all recipes of later operators."""
        if self._latest > operator:
            self._alive = {number: item for number, item in self._alive.items() if item[0] <= operator}
            self._latest = max((item[0] for item in self._alive.values()), default=-1)


_NOTHING = (0, None)


class Kept:
    """A tensor that stays, as it was when this was made."""
    __slots__ = ('tensor', 'version')
    depth = 0

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.version = tensor, tensor._version

    def value(self) -> Tensor:
        """The tensor.

        Raises:
            RuntimeError: If it was changed in place since.
        """
        if self.tensor._version != self.version:
            raise RuntimeError(_CHANGED.format(tuple(self.tensor.shape), self.tensor._version, self.version))
        return self.tensor

    def borrow(self) -> Tuple[Tensor, bool]:
        return self.value(), False


class Recipe:
    """A tensor that is computed again from its sources.

    Args:
        values: Of the forward that this belongs to.
        function: Takes the arguments, in which tensors stand for their sources.
        args: Its arguments; sources may stand in a list among them.
        inplace: The same function, free to overwrite its first argument.

    Attributes:
        uses: Number of saved tensors that are this one.
        depth: Longest way to what is kept.
    """
    __slots__ = ('values', 'function', 'args', 'inplace', 'operator', 'number', 'uses', 'pending', 'depth', 'layout')

    def __init__(self, values: Values, function: Callable, args: Sequence[Any], inplace: Optional[Callable] = None):
        self.values, self.function, self.args, self.inplace = values, function, args, inplace
        self.operator, self.number = values.operator, values.count
        values.count += 1
        self.uses = self.pending = 0
        self.depth = 1 + max((source.depth for source in sources(args)), default=0)
        self.layout: Optional[tuple] = None

    def use(self) -> None:
        """Count a saved tensor that will read the value in backward."""
        self.uses += 1
        self.pending += 1

    def value(self) -> Any:
        """The value, for one of the saved tensors."""
        value = self.values.get(self)
        if value is None:
            value = self._make()
        self.pending -= 1
        if self.pending > 0:
            self.values.put(self, value)
        else:
            self.pending = self.uses  # for another backward through the same graph
            self.values.drop(self)
        return value

    def borrow(self) -> Tuple[Any, bool]:
        """The value, for another recipe, and whether that may overwrite it."""
        value = self.values.get(self)
        if value is not None:
            return value, False
        value = self._make()
        if self.uses:
            self.values.put(self, value)
        return value, not self.uses

    def _make(self) -> Any:
        args: List[Any] = []
        own = False
        for i, arg in enumerate(self.args):
            if isinstance(arg, SOURCES):
                arg, owned = arg.borrow()
                own = own or (i == 0 and owned)
            elif type(arg) is list:
                arg = [a.borrow()[0] if isinstance(a, SOURCES) else a for a in arg]
            args.append(arg)
        return (self.inplace if own and self.inplace else self.function)(*args)


class Part:
    """A view of a recipe's value."""
    __slots__ = ('recipe', 'geometry')

    def __init__(self, recipe: Recipe, geometry: Tuple[Sequence[int], Sequence[int], int]):
        self.recipe, self.geometry = recipe, geometry

    @property
    def depth(self) -> int:
        return self.recipe.depth

    def value(self) -> Tensor:
        return self._view(self.recipe.value())

    def borrow(self) -> Tuple[Tensor, bool]:
        return self._view(self.recipe.borrow()[0]), False

    def _view(self, value: Tensor) -> Tensor:
        size, stride, _ = self.recipe.layout
        if value.stride() != stride or value.storage_offset():
            value = torch.empty_strided(size, stride, dtype=value.dtype, device=value.device).copy_(value)
        return value.as_strided(*self.geometry)


SOURCES = (Recipe, Kept, Part)
Source = Union[Recipe, Kept, Part]


def sources(args: Sequence[Any]):
    """The sources among the arguments of a recipe."""
    for arg in args:
        if isinstance(arg, SOURCES):
            yield arg
        elif type(arg) is list:
            yield from (a for a in arg if isinstance(a, SOURCES))


class Saved:
    """What autograd holds in place of a tensor that an operator saved."""
    __slots__ = ('source', 'operator')

    def __init__(self, source: Source, operator: int):
        self.source, self.operator = source, operator

    def load(self) -> Tensor:
        """The tensor, for backward."""
        source = self.source
        if type(source) is Kept:
            return source.value()
        recipe = source if type(source) is Recipe else source.recipe
        recipe.values.drop_after(self.operator)
        if not torch.is_grad_enabled() and not torch._C._is_any_autocast_enabled():
            return source.value()
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            for device in {'cpu', torch._C._get_accelerator().type} if torch.accelerator.is_available() else {'cpu'}:
                stack.enter_context(torch.autocast(device, enabled=False))
            return source.value()
