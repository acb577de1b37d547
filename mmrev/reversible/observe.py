"""Observe the first call of a function: generators and buffers that it uses, tensors that it leaves behind.

The first forward and the first backward after a change of the modules run under these observers; later ones do not.
"""
import gc
import time
import weakref
from contextlib import ExitStack
from functools import partial, update_wrapper
from typing import Any, Callable, Dict, List, Sequence, Set, Tuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from mmrev import compat

from .errors import LEFT_BEHIND, ReversibilityError
from .function import Function
from .generators import drawn_by_default

# A thread of a process group briefly holds the tensors of a collective after it has ended.
_RELEASE_SECONDS = 0.5


class Observer(TorchDispatchMode):
    """Records generators drawn from, storages read, storages that batch norms update, and all new tensors.

    Batch norms update running statistics without increasing their versions.

    Args:
        function: The function that is evaluated.
        hidden: The function's graph is for this observer alone, and saved-tensor hooks around the sequence do not see
            it.
    """

    def __init__(self, function: Function, hidden: bool = False) -> None:
        super().__init__()
        self._function, self._hidden = function, hidden
        self.generators: Dict[torch.Generator, Tensor] = {}  # with their state before
        self.updated: Set[int] = set()  # storages
        self.read: Set[int] = set()  # storages, except those that an operator only updates
        self.packs = False  # saved tensors, as a checkpoint within the function does
        self._made: List[Any] = []
        self._packing = False

    def __enter__(self) -> Any:
        self._around = ExitStack()
        self._around.enter_context(compat.eagerly())  # the compiler skips for good what it meets in a dispatch mode
        around = compat.saved_tensor_hooks()
        if around is not None or self._hidden and not compat.can_save_memory:
            pack, unpack = (Tensor.detach, Tensor.detach) if around is None or self._hidden else around
            self._around.enter_context(saved_tensors_hooks(update_wrapper(partial(self._pack, pack), pack), unpack))
        self._hooks = compat.saved_tensor_hooks()
        return super().__enter__()

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        self._around.close()
        with self._function.shared.lock:  # no other thread is between a hook and the layer that reads its weight
            for m in self._function.modules:
                _detach_computed_weights(m)

    def _pack(self, pack: Callable[[Tensor], Any], x: Tensor) -> Any:
        """Let hooks around the sequence save a tensor, unobserved.

        A tensor with a graph that they keep as it is, as ``save_on_cpu`` does on a CPU, would never be released.
        """
        self._packing = True
        try:
            return pack(x.detach() if x.grad_fn is not None else x)
        finally:
            self._packing = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Tuple = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._packing:
            return func(*args, **kwargs)
        self.packs = self.packs or compat.saved_tensor_hooks() != self._hooks
        for x in (*args, *kwargs.values(), drawn_by_default(func, args, kwargs)):
            if isinstance(x, torch.Generator) and x not in self.generators:
                self.generators[x] = x.get_state()
        if _normalizes(func):
            self.updated |= _storages(args)
        self.read |= _storages(_read(func, args, kwargs))
        out = func(*args, **kwargs)
        self.watch(tree_flatten(out)[0])
        return out

    def watch(self, values: Sequence[Any]) -> None:
        """Remember the tensors among ``values`` for :meth:`survivors`."""
        self._made += [weakref.ref(x) for x in values if isinstance(x, Tensor)]

    def survivors(self) -> List[Tensor]:
        """Tensors made under this observer that are still alive and need a gradient."""
        if not self._alive():
            return []
        gc.collect()
        deadline = time.monotonic() + _RELEASE_SECONDS
        while (found := self._alive()) and time.monotonic() < deadline:
            del found
            time.sleep(0.01)
        return found

    def leaves(self) -> List[Tensor]:
        """Leaves that require grad and were made under this observer; they belong to the function itself."""
        return [x for x in self._alive() if x.is_leaf]

    def _alive(self) -> List[Tensor]:
        return [x for x in (ref() for ref in self._made) if x is not None and x.requires_grad]


def _detach_computed_weights(m: nn.Module) -> None:
    """Release the graphs of weights that hooks of ``torch.nn.utils`` set as attributes, anew before every call."""
    for hook in m._forward_pre_hooks.values():
        if isinstance(hook, (BasePruningMethod, SpectralNorm, WeightNorm)):
            name = hook._tensor_name if isinstance(hook, BasePruningMethod) else hook.name
            if isinstance(vars(m).get(name), Tensor):
                vars(m)[name] = vars(m)[name].detach()


def _storages(values: Any) -> Set[int]:
    return {x.untyped_storage()._cdata for x in tree_flatten(values)[0]
            if isinstance(x, Tensor) and x.layout is torch.strided}


def _normalizes(func: Any) -> bool:
    name = func._schema.name
    return 'batch_norm' in name and 'backward' not in name


def _read(func: Any, args: Tuple, kwargs: Dict[str, Any]) -> List[Any]:
    """The arguments on which the result depends; a batch norm in training only updates its running statistics."""
    arguments = func._schema.arguments
    given = dict(zip([argument.name for argument in arguments], args), **kwargs)
    written = {argument.name for argument in arguments if argument.alias_info and argument.alias_info.is_write}
    if _normalizes(func) and given.get('training', given.get('train')) is not False and \
            not func._schema.name.endswith(('no_training', 'no_update')):
        written |= {'running_mean', 'running_var'}
    return [x for name, x in given.items() if name not in written]


def refuse_survivors(observer: Observer, step: str) -> None:
    """Refuse a function that leaves a tensor with a graph behind: a gradient through it would be lost.

    Raises:
        ReversibilityError: Naming the step and the tensor's shape.
    """
    found = observer.survivors()
    if found:
        raise ReversibilityError(
            f'{step} leaves a tensor behind that needs a gradient (shape {tuple(found[-1].shape)}): {LEFT_BEHIND}')
