"""Watches a forward: which tensor follows from which others, and what autograd saves of them."""
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
DEPTH = 100  # of a recipe, lest the recursion fail


class Entry:
    """What is known of a storage. It is an attribute of the storage, so it ends with it, and needs no address.

    Attributes:
        version: Of its tensors when this was known.
        recipe: How its content is computed again.
        keeper: Mark of the recorder by whose knowledge autograd keeps it.
    """
    __slots__ = ('version', 'recipe', 'keeper', 'counted', '__weakref__')

    def __init__(self, version: int, recipe: Optional[Recipe] = None, keeper: Any = None):
        self.version, self.recipe, self.keeper, self.counted = version, recipe, keeper, None


class Recorder(TorchFunctionMode):
    """In this context autograd saves recipes instead of tensors, wherever they are known.

    As a mode for torch's functions it sees every call, and notes for those in the table how the result is computed
    again. As a pair of hooks for saved tensors it sees what operators save, whoever they are, and looks the storage up.

    Args:
        table: By function of torch, what to call in its place.
        tally: Counts what is saved, see :class:`Tally`.
    """

    def __init__(self, table: Dict[Callable, Handler], tally: Any = None) -> None:
        super().__init__()
        self.values = Values()
        self.recent: List[Saved] = []  # what operators saved since `begin`
        self.tally = tally
        self.blocks = 0  # that forward is in: in these, convolutions and products are computed again too
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
        """Whether autograd records, and nobody within, like checkpointing, handles what is saved."""
        top = _autograd._top_saved_tensors_default_hooks(True)
        return top is not None and top[0] is self._pack and (torch.is_grad_enabled() or func in self.without_grad)

    without_grad: frozenset = frozenset()  # functions that matter within a function of autograd

    def begin(self) -> None:
        """Say that another operator begins."""
        self.recent.clear()
        self.values.operator += 1

    # What operators save.

    def _save(self, tensor: Tensor) -> Saved:
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
        """Keep a tensor of the forward, and let what follows be computed from it."""
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

    # What follows from what.

    def source(self, tensor: Tensor) -> Tuple[Source, int]:
        """Where a tensor comes from, and how many bytes would be kept for it alone."""
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
        if tensor.is_leaf:
            return Kept(tensor), 0 if tensor.requires_grad else cost
        return Kept(tensor.detach()), cost

    def arguments(self, args: Sequence[Any]) -> Tuple[List[Any], int]:
        """The arguments with sources in place of tensors, and how many bytes would be kept for them alone."""
        made: List[Any] = []
        total = 0
        for arg in args:
            if isinstance(arg, Tensor):
                arg, cost = self.source(arg)
                total += cost
            elif type(arg) in (list, tuple) and any(isinstance(a, Tensor) for a in arg):
                arg, cost = self.arguments(arg)
                total += cost
            made.append(arg)
        return made, total

    def write(self, out: Tensor, function: Callable, args: List[Any], cost: int = 0,
              inplace: Optional[Callable] = None) -> Optional[Recipe]:
        """Note how a tensor is computed again, unless its recipe would keep more than half of what it saves.

        Args:
            out: What an operator just made, or changed in place.
            function: See :class:`Recipe`.
            args: See :class:`Recipe`.
            cost: Bytes that are kept for the sources alone.
            inplace: See :class:`Recipe`.
        """
        storage = out.untyped_storage()
        size = storage.nbytes()
        if size <= SMALL or 2 * cost > size or out.numel() * out.element_size() != size:
            return None
        recipe = Recipe(self.values, function, args, inplace, (out.size(), out.stride(), out.dtype))
        if recipe.depth > DEPTH:
            return None
        for saved in self.recent:  # the operator saved its result before it was known
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
