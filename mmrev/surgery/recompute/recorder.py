"""Observe a forward: how tensors are computed from each other, and which of them autograd saves."""
import weakref
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode

from mmrev import compat

from .changes import changed_argument, shares_without_version
from .recipe import Kept, Recipe, Saved, Source, Values, part_of, sources

_autograd = torch._C._autograd
Handler = Callable[['Recorder', Callable, Sequence[Any], Dict[str, Any]], Any]

SMALL = 2048  # bytes: not worth a recipe
DEPTH = 100  # of a recipe; limits the recursion
BUFFER = 65536  # bytes: smaller buffers and biases are copied, for they may be updated before backward
NEVER = 2**62  # bytes: the cost of a source that cannot be stored


class Entry:
    """What is known about a storage. As an attribute of the storage it has the same lifetime.

    Attributes:
        version: Version of its tensors at that time.
        recipe: How to recompute the content.
        keeper: Mark of the recorder for which autograd stores it.
        readers: What recipes compute from it.
        exposed: Whether it may change without a new version.
        bypassed: Whether an operator returns no gradient for it, but one for what it was computed from.
    """
    __slots__ = ('version', 'recipe', 'keeper', 'counted', 'readers', 'exposed', 'bypassed',
                 '__weakref__')

    def __init__(self, version: int, recipe: Optional[Recipe] = None, keeper: Any = None):
        self.version, self.recipe, self.keeper, self.counted = version, recipe, keeper, None
        self.readers: Optional[weakref.WeakSet] = None
        self.exposed = self.bypassed = False


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
        if compat.is_compiling():
            return func(*args, **(kwargs or {}))
        changed = changed_argument(func, args, kwargs)
        if changed is not None:
            self.before_change(changed)
        elif func in shares_without_version:
            self.expose(args[0])
        handler = self._table.get(func)
        if self.tally is not None:
            reads_attribute = getattr(func, '__name__', '') == '__get__'
            self.tally.function = None if reads_attribute else func
        if handler is None or not self._is_recording(func):
            return func(*args, **(kwargs or {}))
        return handler(self, func, args, kwargs or {})

    def _is_recording(self, func: Callable) -> bool:
        """Whether autograd records, and no inner saved-tensor hooks, such as checkpointing's, are active."""
        if self.paused and self.paused[-1]:
            return False
        top = compat.saved_tensor_hooks()
        return top is not None and getattr(top[0], '__wrapped__', top[0]) is self._pack and (
            torch.is_grad_enabled() or func in self.without_grad)

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
        entry = _entry_of(storage, version)
        entry.keeper = self._mark
        return entry

    # How tensors change.

    def before_change(self, changed: Any) -> None:
        """Give recipes that compute from these tensors copies."""
        for tensor in [changed] if isinstance(changed, Tensor) else changed:
            entry = _known(tensor)
            if entry is not None and entry.readers:
                copies: Dict[tuple, Tensor] = {}
                for kept in entry.readers:
                    geometry = kept.tensor.shape, kept.tensor.stride(), kept.tensor.storage_offset()
                    if geometry not in copies:
                        with torch.inference_mode(False):
                            copies[geometry] = kept.tensor.detach().clone()
                    kept.tensor, kept.version = copies[geometry], copies[geometry]._version
                entry.readers = None

    def expose(self, tensor: Tensor) -> None:
        """Store a tensor that may change without a new version, and compute nothing from it."""
        if not is_lazy(tensor) and tensor.layout is torch.strided:
            self.before_change(tensor)
            entry = _entry_of(tensor.untyped_storage(), tensor._version)
            entry.recipe, entry.exposed = None, True

    def bypass(self, tensor: Tensor) -> None:
        """Note that the gradient of an operator does not pass this argument."""
        _entry_of(tensor.untyped_storage(), tensor._version).bypassed = True

    def is_bypassed(self, tensor: Tensor) -> bool:
        """Whether :meth:`bypass` noted it."""
        entry = _known(tensor)
        return entry is not None and entry.bypassed

    # How tensors are computed.

    def source(self, tensor: Tensor) -> Tuple[Source, int]:
        """The source of a tensor, and the bytes that would be stored for it alone."""
        if tensor.layout is not torch.strided:
            return Kept(tensor.detach()), NEVER
        if tensor.is_inference():  # without a version
            tensor = tensor.clone()
        storage = tensor.untyped_storage()
        entry = _entry_of(storage, tensor._version)
        if entry.recipe is not None:
            source = part_of(entry.recipe, tensor)
            if source is not None:
                return source, 0
        cost = 0 if entry.keeper is self._mark or tensor.is_leaf and tensor.requires_grad else storage.nbytes()
        may_be_updated = tensor.ndim == 1 if tensor.requires_grad else cost > 0  # biases; buffers
        if tensor.is_leaf and may_be_updated and storage.nbytes() <= BUFFER:
            return Kept(tensor.detach().clone()), cost
        kept = Kept(tensor.detach())
        if entry.readers is None:
            entry.readers = weakref.WeakSet()
        entry.readers.add(kept)
        return kept, NEVER if entry.exposed else cost

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
        if size <= SMALL or 2 * cost > size or out.numel() * out.element_size() != size or (
                out.is_complex() and out.is_conj()):
            return None
        recipe = Recipe(self.values, function, args, inplace, (out.size(), out.stride(), out.dtype))
        if recipe.depth > DEPTH:
            return None
        for saved in self.recent:  # the operator saved its result before it was recorded
            if saved.tensor is not None and saved.tensor.untyped_storage()._cdata == storage._cdata:
                source = part_of(recipe, saved.tensor)
                if source is not None:
                    saved.replace(source)
        entry = _entry_of(storage, out._version)
        entry.recipe, entry.keeper = recipe, None
        self._entries.append(weakref.ref(entry))
        if cost:
            for source in sources(args):
                if type(source) is Kept:
                    self._keep(source.tensor.untyped_storage(), source.version)
        return recipe


def _known(tensor: Tensor) -> Optional[Entry]:
    """What is known about the storage of a tensor, if it has one."""
    if is_lazy(tensor) or tensor.layout is not torch.strided:
        return None
    return getattr(tensor.untyped_storage(), '_mmrev_entry', None)


def _entry_of(storage: torch.UntypedStorage, version: int) -> Entry:
    """What is known about a storage in this version."""
    entry = getattr(storage, '_mmrev_entry', None)
    if entry is None:
        entry = storage._mmrev_entry = Entry(version)
    elif entry.version != version:
        entry.version, entry.recipe, entry.keeper = version, None, None
    return entry
