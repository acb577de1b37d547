"""How to compute a tensor from tensors that are stored anyway, and the values that backward has recomputed so far."""
from contextlib import ExitStack
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor

Geometry = Tuple[Sequence[int], Sequence[int], int]  # size, stride, offset

# A chain of recipes, such as the blocks of a residual network, is computed from its beginning. Of its values, backward
# stores those that it reads within the next NEAR operators, and each STRIDE-th, from which it computes the chain anew.
NEAR, STRIDE = 24, 16
NEAR_SUM = 8  # for sums, which cost least
SUMS = (torch.add, Tensor.add, Tensor.__radd__)


class Values:
    """Values that the backward has recomputed and will read again.

    A backward visits operators in reverse order. Once it reads what an operator saved, the values of all later
    operators are no longer needed, and are dropped even if not all of their readers have come.

    Attributes:
        operator: Number of the current operator of the forward.
        reading: Number of the operator whose saved tensors the backward reads.
    """

    def __init__(self) -> None:
        self.operator = self.reading = 0
        self._recipes = 0
        self._alive: Dict[int, Tuple[int, Any]] = {}  # operator and value by the number of the recipe
        self._latest = -1

    def number(self) -> int:
        """A number for a new recipe."""
        self._recipes += 1
        return self._recipes

    def get(self, recipe: 'Recipe') -> Any:
        return self._alive.get(recipe.number, _NONE)[1]

    def put(self, recipe: 'Recipe', value: Any) -> None:
        self._alive[recipe.number] = recipe.operator, value
        self._latest = max(self._latest, recipe.operator)

    def drop(self, recipe: 'Recipe') -> None:
        self._alive.pop(recipe.number, None)

    def drop_after(self, operator: int) -> None:
        """Drop the values of later operators."""
        self.reading = operator
        if self._latest > operator:
            self._alive = {number: item for number, item in self._alive.items() if item[0] <= operator}
            self._latest = max((made for made, _ in self._alive.values()), default=-1)


_NONE = (0, None)


class Kept:
    """A tensor that is stored in its current version."""
    __slots__ = ('tensor', 'version', '__weakref__')
    depth = 0

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.version = tensor, tensor._version

    def add_reader(self) -> None:
        pass

    def borrow(self) -> Tuple[Tensor, bool]:
        """The tensor, and False: it must not be overwritten.

        Raises:
            RuntimeError: If it was changed in place afterwards.
        """
        return unchanged(self.tensor, self.version), False


def unchanged(tensor: Tensor, version: int) -> Tensor:
    """The tensor, if it is still at this version. Autograd leaves this check to saved-tensor hooks."""
    if tensor._version != version:
        raise RuntimeError(
            'one of the variables needed for gradient computation has been modified by an inplace operation: a tensor '
            f'of shape {tuple(tensor.shape)} is at version {tensor._version}; expected version {version} instead. '
            '`mmrev.save_memory` computes others from it in backward; a forward in '
            '`torch.autograd.set_detect_anomaly(True)` shows the operation')
    return tensor


class Recipe:
    """How to recompute a tensor.

    Args:
        values: Values of the forward to which the recipe belongs.
        function: Called with the arguments, in which tensors replace sources.
        args: Arguments with sources in place of tensors, also within lists.
        inplace: Computes the same, and may overwrite its first argument.
        layout: Size, stride and dtype of the tensor; ``None`` if it is no tensor of the network.

    Attributes:
        uses: Number of saved tensors that this recipe replaces.
        readers: Number of recipes with this one as a source.
        depth: Length of the longest path to a stored tensor.
    """
    __slots__ = ('values', 'function', 'args', 'inplace', 'layout', 'operator', 'number', 'uses', 'readers',
                 'pending', 'depth')

    def __init__(self, values: Values, function: Callable, args: Sequence[Any], inplace: Optional[Callable] = None,
                 layout: Optional[tuple] = None):
        self.values, self.function, self.args, self.inplace, self.layout = values, function, args, inplace, layout
        self.operator, self.number = values.operator, values.number()
        self.uses = self.readers = self.pending = self.depth = 0
        for source in sources(args):
            self.depth = max(self.depth, source.depth)
            source.add_reader()
        self.depth += 1

    def add_use(self) -> None:
        self.uses += 1
        self.pending += 1

    def add_reader(self) -> None:
        self.readers += 1

    def pin(self, tensor: Tensor) -> None:
        """Store the value after all."""
        self.function, self.inplace, self.args, self.depth = _itself, None, [Kept(tensor)], 0

    def value(self) -> Any:
        """The value for one of the saved tensors; stored until the last of them has been read."""
        value = self.values.get(self)
        if value is None:
            value, _ = self._compute()
        self.pending -= 1
        if self.pending > 0:
            self.values.put(self, value)
        else:
            self.pending = self.uses  # backward may run again
            self.values.drop(self)
        return value

    def borrow(self) -> Tuple[Any, bool]:
        """The value for another recipe, and whether that recipe may overwrite it."""
        value = self.values.get(self)
        if value is not None:
            return value, False
        value, own = self._compute()
        near = NEAR_SUM if self.function in SUMS else NEAR
        stored = self.values.reading - self.operator <= near or not self.depth % STRIDE
        if stored and (self.uses or self.readers > 1):
            self.values.put(self, value)
            own = False
        return value, own

    def _compute(self) -> Tuple[Any, bool]:
        """The value, and whether it has no other owner."""
        args: List[Any] = []
        overwrites = False
        for arg in self.args:
            if isinstance(arg, SOURCES):
                arg, own = arg.borrow()
                overwrites = overwrites or own and not args
            elif type(arg) is list:
                arg = [a.borrow()[0] if isinstance(a, SOURCES) else a for a in arg]
            args.append(arg)
        if overwrites and self.inplace:
            return self.inplace(*args), True
        value, first = self.function(*args), args[0]
        own = isinstance(first, Tensor) and isinstance(value, Tensor) and (
            value.untyped_storage()._cdata != first.untyped_storage()._cdata)
        return value, own


def _itself(x: Tensor) -> Tensor:
    return x


class Part:
    """A view of the result of a recipe."""
    __slots__ = ('recipe', 'geometry')

    def __init__(self, recipe: Recipe, geometry: Geometry):
        self.recipe, self.geometry = recipe, geometry

    @property
    def depth(self) -> int:
        return self.recipe.depth

    def add_use(self) -> None:
        self.recipe.add_use()

    def add_reader(self) -> None:
        self.recipe.readers += 1

    def value(self) -> Tensor:
        return self._view(self.recipe.value())

    def borrow(self) -> Tuple[Tensor, bool]:
        return self._view(self.recipe.borrow()[0]), False

    def _view(self, whole: Tensor) -> Tensor:
        size, stride, dtype = self.recipe.layout
        if whole.stride() != stride or whole.storage_offset():
            whole = torch.empty_strided(size, stride, dtype=dtype, device=whole.device).copy_(whole)
        return whole.as_strided(*self.geometry)


SOURCES = (Kept, Recipe, Part)
Source = Union[Kept, Recipe, Part]


def sources(args: Sequence[Any]) -> Iterator[Source]:
    """The sources among a recipe's arguments."""
    for arg in args:
        if isinstance(arg, SOURCES):
            yield arg
        elif type(arg) is list:
            yield from (a for a in arg if isinstance(a, SOURCES))


def part_of(recipe: Recipe, tensor: Tensor) -> Union[Recipe, Part, None]:
    """The recipe of a tensor that shares storage with the result of ``recipe``.

    ``None`` for another dtype, and for a conjugate.
    """
    size, stride, dtype = recipe.layout
    if tensor.dtype != dtype or dtype.is_complex and tensor.is_conj():
        return None
    offset = tensor.storage_offset()
    if not offset and tensor.size() == size and tensor.stride() == stride:
        return recipe
    return Part(recipe, (tensor.size(), tensor.stride(), offset))


class Saved:
    """What autograd stores for a saved tensor: the tensor or its recipe."""
    __slots__ = ('tensor', 'version', 'source', 'operator')

    def __init__(self, tensor: Optional[Tensor], version: int, source: Union[Recipe, Part, None], operator: int):
        self.tensor, self.version, self.source, self.operator = tensor, version, source, operator

    def replace(self, source: Union[Recipe, Part]) -> None:
        """Release the tensor; the backward gets this in its place."""
        source.add_use()
        self.tensor, self.source = None, source

    def load(self) -> Tensor:
        """The tensor, for backward."""
        if self.source is None:
            return unchanged(self.tensor, self.version)
        source = self.source
        values = source.values if type(source) is Recipe else source.recipe.values
        values.drop_after(self.operator)
        if not torch.is_grad_enabled() and not torch._C._is_any_autocast_enabled():
            return source.value()
        with ExitStack() as stack:  # backward of a backward, or backward within autocast
            stack.enter_context(torch.no_grad())
            for device in ('cpu', *([torch.accelerator.current_accelerator().type]
                                    if torch.accelerator.is_available() else [])):
                stack.enter_context(torch.autocast(device, enabled=False))
            return source.value()
