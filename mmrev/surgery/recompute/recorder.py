"""Observe a forward: how tensors are computed from each other, and which of them autograd saves."""
import weakref
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mmrev import compat

from .recipe import Kept, Recipe, Saved, Source, Values, part_of, sources

_autograd = torch._C._autograd
Handler = Callable[['Recorder', Callable, Sequence[Any], Dict[str, Any]], Any]

SMALL = 2048  # bytes: not worth a recipe
DEPTH = 100  # of a recipe; limits the recursion
BUFFER = 65536  # bytes: smaller buffers are copied, for the module may update them before backward
NEVER = 2**62  # bytes: the cost of a source that cannot be stored


class Entry:
    """What is known about a storage. As an attribute of the storage it has the same lifetime.

    Attributes:
        version: Version of its tensors at that time.
        recipe: How to recompute the content.
        keeper: Mark of the recorder for which autograd stores it.
    """
    __slots__ = ('version', 'recipe', 'keeper', 'counted', '__weakref__')

    def __init__(self, version: int, recipe: Optional[Recipe] = None, keeper: Any = None):
        self.version, self.recipe, self.keeper, self.counted = version, recipe, keeper, None


class Recorder(TorchFunctionMode):
    """Within this context autograd saves recipes instead of tensors, where they are known.

    As a torch function mode it sees every call, and records how to recompute the results of functions in the table. As
    a pair of saved-tensor hooks it sees what any operator saves, and looks up the storage.

    Args:
        table: Handler by torch function, called in its place.
        tally: Counter of saved bytes, see :class:`Tally`.
    """

    def __init__(self, table: Dict[Callable, Handler], tally: Any = None) -> None:
        super().__init__()
        self.values = Values()
        self.recent: List[Saved] = []  # tensors saved since `begin`
        self.tally = tally
        self.blocks = 0  # blocks that the forward is in, where convolutions and products are recomputed too
        self.paused: List[bool] = []  # for modules that the forward is in, the innermost last: recompute nothing
        self._table = table
        self._mark = object()
        self._entries: List[weakref.ref] = []
        self._pack: Any = self._save

    def __enter__(self) -> 'Recorder':
        _autograd._push_saved_tensors_default_hooks(self._pack, Saved.load)
        return super().__enter__()

    def __exit__(self, *exception) -> None:
        super().__exit__(*exception)
        _autograd._pop_saved_tensors_default_hooks()
        self.recent, self._pack = [], None
        for reference in self._entries:  # of what outlives the forward
            entry = reference()
            if entry is not None:
                entry.recipe = None
        self._entries = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        handler = self._table.get(func)
        if self.tally is not None:
            self.tally.function = func
        if handler is None or compat.is_compiling() or not self._is_recording(func):
            return func(*args, **(kwargs or {}))
        return handler(self, func, args, kwargs or {})

    def _is_recording(self, func: Callable) -> bool:
        """Whether autograd records, and no inner saved-tensor hooks, such as checkpointing's, are active."""
        if self.paused and self.paused[-1]:
            return False
        top = _autograd._top_saved_tensors_default_hooks(True)
        return top is not None and top[0] is self._pack and (torch.is_grad_enabled() or func in self.without_grad)

    without_grad: frozenset = frozenset()  # functions that matter within an autograd function

    def begin(self) -> None:
        """Mark the beginning of an operator."""
        self.recent.clear()
        self.values.operator += 1

    # What operators save.

    def _save(self, tensor: Tensor) -> Saved:
        if tensor.layout is not torch.strided:
            return Saved(tensor, tensor._version, None, self.values.operator)
        storage, version = tensor.untyped_storage(), tensor._version
        entry = getattr(storage, '_mmrev_entry', None)
        if entry is not None and entry.recipe is not None and entry.version == version:
            source = part_of(entry.recipe, tensor)
            if source is not None:
                source.add_use()
                saved = Saved(None, version, source, self.values.operator)
                if self.tally is not None:
                    self.tally.add(saved, storage, entry)
                return saved
        saved = Saved(tensor, version, None, self.values.operator)
        self.recent.append(saved)
        if storage.nbytes() > SMALL:
            entry = self._keep(storage, version)
            if self.tally is not None:
                self.tally.add(saved, storage, entry)
        return saved

    def keep(self, tensor: Tensor) -> None:
        """Store a tensor of the forward, so that others can be computed from it."""
        storage = tensor.untyped_storage()
        entry = getattr(storage, '_mmrev_entry', None)
        if entry is not None and entry.recipe is not None and entry.version == tensor._version:
            size, stride, dtype = entry.recipe.layout
            if tensor.dtype == dtype:
                entry.recipe.pin(tensor.detach().as_strided(size, stride, 0))
                entry.recipe, entry.keeper = None, self._mark

    def _keep(self, storage: torch.UntypedStorage, version: int) -> Entry:
        entry = getattr(storage, '_mmrev_entry', None)
        if entry is None:
            entry = storage._mmrev_entry = Entry(version)
        elif entry.version != version:
            entry.version, entry.recipe = version, None
        entry.keeper = self._mark
        return entry

    # How tensors are computed.

    def source(self, tensor: Tensor) -> Tuple[Source, int]:
        """The source of a tensor, and the bytes that would be stored for it alone."""
        if tensor.layout is not torch.strided:
            return Kept(tensor.detach()), NEVER
        if tensor.is_inference():  # without a version
            tensor = tensor.clone()
        storage = tensor.untyped_storage()
        entry = getattr(storage, '_mmrev_entry', None)
        cost = storage.nbytes()
        if entry is not None and entry.version == tensor._version:
            if entry.recipe is not None:
                source = part_of(entry.recipe, tensor)
                if source is not None:
                    return source, 0
            if entry.keeper is self._mark:
                cost = 0
        if tensor.is_leaf and tensor.requires_grad:
            return Kept(tensor), 0
        if tensor.is_leaf and 0 < cost <= BUFFER:
            return Kept(tensor.clone()), cost
        return Kept(tensor.detach()), cost

    def arguments(self, args: Sequence[Any]) -> Tuple[List[Any], int]:
        """The arguments with sources in place of tensors, and the bytes that would be stored for them alone."""
        made: List[Any] = []
        total = 0
        for arg in args:
            if isinstance(arg, Tensor):
                arg, cost = self.source(arg)
                total += cost
            elif type(arg) in (list, tuple) and any(isinstance(a, Tensor) for a in arg):
                arg, cost = self.arguments(arg)
                total += cost
            elif type(arg) is list:
                arg = arg.copy()  # the caller may change it
            made.append(arg)
        return made, total

    def write(self, out: Tensor, function: Callable, args: List[Any], cost: int = 0,
              inplace: Optional[Callable] = None) -> Optional[Recipe]:
        """Record how to recompute a tensor, unless the recipe would store more than half of the saved bytes.

        Args:
            out: New or changed tensor of an operator.
            function: See :class:`Recipe`.
            args: See :class:`Recipe`.
            cost: Bytes that are stored for the sources alone.
            inplace: See :class:`Recipe`.
        """
        storage = out.untyped_storage()
        size = storage.nbytes()
        if size <= SMALL or 2 * cost > size or out.numel() * out.element_size() != size:
            return None
        recipe = Recipe(self.values, function, args, inplace, (out.size(), out.stride(), out.dtype))
        if recipe.depth > DEPTH:
            return None
        for saved in self.recent:  # the operator saved its result before it was recorded
            if saved.tensor is not None and saved.tensor.untyped_storage()._cdata == storage._cdata:
                source = part_of(recipe, saved.tensor)
                if source is not None:
                    saved.replace(source)
        entry = getattr(storage, '_mmrev_entry', None)
        if entry is None:
            entry = storage._mmrev_entry = Entry(out._version, recipe)
        else:
            entry.version, entry.recipe, entry.keeper = out._version, recipe, None
        self._entries.append(weakref.ref(entry))
        if cost:
            for source in sources(args):
                if type(source) is Kept:
                    self._keep(source.tensor.untyped_storage(), source.version)
        return recipe
