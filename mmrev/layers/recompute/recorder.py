"""Watches a forward: which tensor follows from which, and what autograd saves of them."""
from typing import Any, Callable, List, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .recipe import Kept, Part, Recipe, Saved, Source, Values, sources

_pop, _push = torch._C._autograd._pop_saved_tensors_default_hooks, torch._C._autograd._push_saved_tensors_default_hooks
_top = torch._C._autograd._top_saved_tensors_default_hooks

SMALL = 4096  # bytes: not worth a recipe
DEPTH = 100  # of a recipe: recursion has an end, and so has what a backward holds at once


class Entry:
    """What is known of a storage; it hangs on the storage, so it ends with it.

    Attributes:
        version: Of the tensor, when this was known.
        recipe: By which its content follows, if it does.
        keeper: The recorder that knows it to be kept.
    """
    __slots__ = ('version', 'recipe', 'keeper', '__weakref__')

    def __init__(self, version: int, recipe: Optional[Recipe] = None, keeper: Any = None):
        self.version, self.recipe, self.keeper = version, recipe, keeper


class Recorder(TorchFunctionMode):
    """Within this context autograd saves recipes instead of tensors, where it knows them.

    Two things happen. As a mode it sees every call of a function of torch, and writes down for those in the table how
    the result follows from the arguments. As a pair of hooks for saved tensors it sees what the operators save, looks
    the storage up and takes the recipe.
    """

    def __init__(self, table: dict, log: Any = None) -> None:
        super().__init__()
        self.table = table
        self.log = log
        self.values = Values()
        self.recent: List[Saved] = []  # what the function that runs now has saved
        self._entries: List[Any] = []
        self._hooks = self.pack, Saved.load

    def __enter__(self):
        _push(*self._hooks)
        return super().__enter__()

    def __exit__(self, *exception):
        super().__exit__(*exception)
        _pop()
        self.recent.clear()
        for reference in self._entries:
            entry = reference()
            if entry is not None:
                entry.recipe = entry.keeper = None
        self._entries.clear()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        handler = self.table.get(func)
        if handler is None or not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return func(*args, **(kwargs or {}))
        return handler(self, func, args, kwargs or {})

    def begin(self) -> None:
        """Another function begins."""
        self.recent.clear()
        self.values.operator += 1

    def is_innermost(self) -> bool:
        """Whether nobody within, as checkpointing does, handles what is saved."""
        top = _top(True)
        return top is not None and top[0] == self._hooks[0]

    # What operators save.

    def pack(self, tensor: Tensor) -> Saved:
        """Autograd's hook."""
        storage = tensor.untyped_storage()
        entry = getattr(storage, '_mmrev_entry', None)
        saved = None
        if entry is not None and entry.recipe is not None and entry.version == tensor._version:
            source = _part(entry.recipe, tensor)
            if source is not None:
                entry.recipe.use()
                saved = Saved(source, self.values.operator)
        if saved is None:
            saved = Saved(Kept(tensor), self.values.operator)
            self._keep(storage, tensor._version)
            self.recent.append(saved)
        if self.log is not None:
            self.log.saved(tensor, storage, saved)
        return saved

    def _keep(self, storage, version: int) -> None:
        entry = getattr(storage, '_mmrev_entry', None)
        if entry is None:
            entry = storage._mmrev_entry = Entry(version)
        elif entry.version != version:
            entry.version, entry.recipe = version, None
        if entry.keeper is not self:
            entry.keeper = self
            self._entries.append(_weak(entry))

    # What follows from what.

    def source(self, tensor: Tensor) -> Tuple[Source, int]:
        """Where a tensor comes from, and the bytes that keeping it would add."""
        storage = tensor.untyped_storage()
        entry = getattr(storage, '_mmrev_entry', None)
        if entry is not None and entry.version == tensor._version:
            if entry.recipe is not None:
                source = _part(entry.recipe, tensor)
                if source is not None:
                    return source, 0
            elif entry.keeper is self:
                return Kept(tensor.detach()), 0
        cost = 0 if tensor.is_leaf and tensor.requires_grad else storage.nbytes()
        return Kept(tensor.detach()), cost

    def arguments(self, args: Sequence[Any]) -> Tuple[List[Any], int]:
        """The arguments with sources in place of tensors, and the bytes that these would add."""
        made, total = [], 0
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
        """Write down how ``out``, just made, is computed again; unless that would keep more than it saves.

        Args:
            out: A new tensor.
            function: See :class:`Recipe`.
            args: See :class:`Recipe`.
            cost: Bytes that its sources add to what is kept.
            inplace: See :class:`Recipe`.
        """
        storage = out.untyped_storage()
        size = storage.nbytes()
        if size < SMALL or 2 * cost > size or out.numel() * out.element_size() != size:
            return None
        recipe = Recipe(self.values, function, args, inplace)
        if recipe.depth > DEPTH:
            return None
        recipe.layout = out.size(), out.stride(), out.dtype
        for saved in self.recent:  # the function's own node saved its result
            tensor = saved.source.tensor if type(saved.source) is Kept else None
            if tensor is not None and tensor.untyped_storage()._cdata == storage._cdata:
                source = _part(recipe, tensor)
                if source is not None:
                    self.replace(saved, source)
        entry = storage._mmrev_entry = Entry(out._version, recipe)
        self._entries.append(_weak(entry))
        if cost:
            for source in sources(args):
                if type(source) is Kept:
                    self._keep(source.tensor.untyped_storage(), source.version)
        return recipe

    def replace(self, saved: Saved, source: Source) -> None:
        """Have a saved tensor computed again."""
        (source if type(source) is Recipe else source.recipe).use()
        saved.source = source


def _part(recipe: Recipe, tensor: Tensor) -> Optional[Source]:
    size, stride, dtype = recipe.layout
    if tensor.dtype != dtype:
        return None
    offset = tensor.storage_offset()
    if not offset and tensor.size() == size and tensor.stride() == stride:
        return recipe
    return Part(recipe, (tensor.size(), tensor.stride(), offset))


def _weak(entry):
    import weakref
    return weakref.ref(entry)
