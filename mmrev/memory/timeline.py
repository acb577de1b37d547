"""Record when each tensor of a training step is allocated and freed, and by which part of the model."""
import contextlib
import threading
from collections import defaultdict
from functools import partial
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from mmrev.compat import flop_registry, notice_freed, when_freed

# Methods, besides `__call__`, by which mmdet runs its modules.
_METHODS = ('loss', 'loss_and_predict', 'loss_and_target', 'loss_by_feat', 'predict', 'predict_by_feat')

_OPERATIONS = flop_registry()


class Allocation:
    """A storage that an operator allocated.

    Attributes:
        bytes: Size of the storage.
        path: Name of the module that ran, as in ``named_modules``; ``''`` outside of all named modules.
        phase: ``'forward'``, ``'backward'`` or ``'optimizer'``.
        operator: Name of the operator.
        shape: Shape of the tensor.
        begin: Index of this allocation in the step.
        end: Index of the first allocation after the storage was freed; ``None`` while it is alive.
    """
    __slots__ = ('bytes', 'path', 'phase', 'operator', 'shape', 'begin', 'end')

    def __init__(self, nbytes: int, path: str, phase: str, operator: str, shape: Tuple[int, ...], begin: int):
        self.bytes, self.path, self.phase, self.operator, self.shape = nbytes, path, phase, operator, shape
        self.begin = begin
        self.end: Optional[int] = None


class Timeline(TorchDispatchMode):
    """A context that records what operators allocate on any device.

    Workspaces that an operator frees before it returns, and memory that an allocator reserves, are not recorded.

    Args:
        model: The model; allocations are recorded with the names of its modules.

    Attributes:
        allocations: Allocations so far, in order.
        marks: Number of allocations before each phase after the forward began.
        macs: Multiply-accumulates of convolutions, matrix products and attention so far.
        forward_macs: Multiply-accumulates of the forward, by the path of the module.
        called: Paths of the modules whose forward ran.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.allocations: List[Allocation] = []
        self.marks: Dict[str, int] = {}
        self.macs = 0
        self.forward_macs: Dict[str, int] = defaultdict(int)
        self.called: Set[str] = set()
        self._phase = 'forward'
        self._names = {module: name for name, module in model.named_modules()}
        self._running = ['']
        self._paths: Dict[int, str] = {}  # of the module that created a node of the graph, by sequence number
        self._alive: Dict[int, Tuple[Any, Allocation]] = {}
        self._lock = threading.RLock()

    def begin(self, phase: str) -> None:
        """Begin a phase, to which all later allocations belong."""
        self._phase = phase
        self.marks[phase] = len(self.allocations)

    def find(self, x: Tensor) -> Optional[Allocation]:
        """Return the allocation of a tensor, if it was recorded."""
        found = self._alive.get(x.untyped_storage()._cdata)
        return found and found[1]

    @contextlib.contextmanager
    def following(self) -> Iterator['Timeline']:
        """Record allocations, and track which module runs.

        Modules are not tracked by hooks, because some layers use another form if they have hooks.
        """
        call = nn.Module.__call__
        patched: List[Tuple[nn.Module, str]] = []

        def following_call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            self.called.add(self._names.get(module, ''))
            return self._run(module, partial(call, module), args, kwargs)

        for module in self._names:
            for name in _METHODS:
                method = getattr(module, name, None)
                if callable(method) and name not in vars(module):
                    module.__dict__[name] = partial(self._run_method, module, method)
                    patched.append((module, name))
        nn.Module.__call__ = following_call  # type: ignore[method-assign]
        try:
            with self:
                yield self
        finally:
            nn.Module.__call__ = call  # type: ignore[method-assign]
            for module, name in patched:
                del module.__dict__[name]

    def _run_method(self, module: nn.Module, method: Any, *args: Any, **kwargs: Any) -> Any:
        return self._run(module, method, args, kwargs)

    def _run(self, module: nn.Module, function: Any, args: tuple, kwargs: dict) -> Any:
        name = self._names.get(module)
        if name is None:
            return function(*args, **kwargs)
        self._running.append(name)
        try:
            return function(*args, **kwargs)
        finally:
            self._running.pop()

    def _path(self) -> str:
        node = torch._C._current_autograd_node()
        if node is not None and self._running[-1] == '':  # not recomputed by a module in backward
            return self._paths.get(node._sequence_nr(), '')
        if node is None and torch.is_grad_enabled():
            self._paths.setdefault(torch.autograd._get_sequence_nr() - 1, self._running[-1])
        return self._running[-1]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = self._call(func, args, kwargs or {})
        count = _OPERATIONS.get(func.overloadpacket)
        if count is not None:
            macs = count(*args, **(kwargs or {}), out_val=out) // 2
            self.macs += macs
            if self._phase == 'forward':
                self.forward_macs[self._running[-1]] += macs
        returns = func._schema.returns
        made = (out, ) if len(returns) == 1 else out or ()
        path = self._path()
        for x, returned in zip(made, returns):
            if returned.alias_info is None:  # neither a view of an argument nor the argument itself
                tree_map_only(Tensor, partial(self._count, func, path), x)
        return out

    def _call(self, func: Any, args: tuple, kwargs: dict) -> Any:
        return func(*args, **kwargs)

    def _count(self, func: Any, path: str, x: Tensor) -> Tensor:
        if x.layout is torch.sparse_coo:
            self._count(func, path, x._indices())
            self._count(func, path, x._values())
            return x
        storage = x.untyped_storage()
        key = storage._cdata
        with self._lock:
            if key not in self._alive:
                notice_freed(entry for entry, _ in self._alive.values())
                made = Allocation(storage.nbytes(), path, self._phase, str(func.overloadpacket).partition('.')[2],
                                  tuple(x.shape), len(self.allocations))
                self.allocations.append(made)
                self._alive[key] = when_freed(storage, partial(self._free, key, made)), made
        return x

    def _free(self, key: int, made: Allocation, _: Any) -> None:
        with self._lock:
            made.end = len(self.allocations)
            del self._alive[key]
