"""Names of newer PyTorch versions, for PyTorch 2.1 and later.

The rest of this package takes these names from here. If the installed PyTorch has a name, it is used unchanged. Needs
torch alone.
"""
import codecs
import pickle
import sys
import threading
import weakref
from collections import Counter
from contextlib import contextmanager, nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any, Callable, ContextManager, Dict, Iterable, Iterator, List, NamedTuple, Sequence

import torch
import torch.nn.modules.module as _module
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import flop_counter
from torch.utils._pytree import tree_map

__all__ = [
    'add_safe_globals', 'backward_into', 'can_predict_memory', 'can_save_memory', 'differentiate', 'eagerly',
    'edge_node', 'flop_registry', 'get_autocast_dtype', 'get_device_module', 'global_hooks', 'has_global_hooks',
    'is_autocast_available', 'is_autocast_enabled', 'is_batched', 'is_checkpointing', 'is_compiler_active',
    'is_compiling', 'is_exporting', 'is_fully_sharded', 'load_weights_only', 'notice_freed', 'output_edge',
    'saved_tensor_hooks', 'when_freed', 'without_attention_fast_path', 'without_cudnn_attention',
    'without_saved_tensor_hooks'
]

_VERSION = tuple(int(number) for number in torch.__version__.split('.')[:2])

# ------------------------------------------------------------------------------------------------- devices, autocast


def _device_module(device: torch.device) -> Any:
    return getattr(torch, device.type)


def _is_autocast_available(device_type: str) -> bool:
    return device_type in ('cpu', 'cuda')


def _is_autocast_enabled(device_type: str) -> bool:
    if device_type == 'cpu':
        return torch.is_autocast_cpu_enabled()
    return device_type == 'cuda' and torch.is_autocast_enabled()


def _autocast_dtype(device_type: str) -> torch.dtype:
    return torch.get_autocast_cpu_dtype() if device_type == 'cpu' else torch.get_autocast_gpu_dtype()


_BY_DEVICE = _VERSION >= (2, 4)  # functions of autocast take a device type
get_device_module: Callable[[torch.device], Any] = torch.get_device_module if _BY_DEVICE else _device_module
is_autocast_available: Callable[[str], bool] = (
    torch.amp.is_autocast_available if _BY_DEVICE else _is_autocast_available)
is_autocast_enabled: Callable[[str], bool] = torch.is_autocast_enabled if _BY_DEVICE else _is_autocast_enabled
get_autocast_dtype: Callable[[str], torch.dtype] = torch.get_autocast_dtype if _BY_DEVICE else _autocast_dtype

# ------------------------------------------------------------------------------------------------- compiler and hooks


def _never() -> bool:
    return False


# TorchDynamo knows either function and replaces it by True.
is_compiling: Callable[[], bool] = getattr(torch.compiler, 'is_compiling', torch._utils.is_compiling)  # 2.2
is_exporting: Callable[[], bool] = getattr(torch.compiler, 'is_exporting', _never)  # 2.7

_get_compiler: Any = getattr(torch._C._dynamo.eval_frame, 'get_eval_frame_callback', None)  # 2.3


def is_compiler_active() -> bool:
    """Whether ``torch.compile`` traces what this thread calls."""
    return _get_compiler is None or _get_compiler() is not None


class _Eagerly:
    """The compiler stance is global to the process: the first thread sets it, the last one restores it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads = 0
        self._stance: Any = None

    def __enter__(self) -> None:
        with self._lock:
            self._threads += 1
            if self._threads == 1:
                self._stance = torch.compiler.set_stance('force_eager')
                self._stance.__enter__()

    def __exit__(self, *exception: Any) -> None:
        with self._lock:
            self._threads -= 1
            if self._threads == 0:
                self._stance.__exit__(*exception)


_eagerly = _Eagerly()


def eagerly() -> ContextManager[Any]:
    """A context in which nothing is compiled and compiled functions run eagerly; PyTorch 2.6 and later."""
    return _eagerly if hasattr(torch.compiler, 'set_stance') and 'torch._dynamo' in sys.modules else nullcontext()


_HOOKS_OF_ALL_MODULES = (_module._global_forward_pre_hooks, _module._global_forward_hooks,
                         _module._global_backward_pre_hooks, _module._global_backward_hooks)


def has_global_hooks() -> bool:
    """Whether a hook is registered for all modules, as by ``torch.nn.modules.module.register_module_forward_hook``."""
    return any(_HOOKS_OF_ALL_MODULES)


def global_hooks() -> List[List[int]]:
    """The ids of the hooks that are registered for all modules; no two hooks share an id."""
    return list(map(list, filter(None, _HOOKS_OF_ALL_MODULES)))


# ------------------------------------------------------------------------------------------------- autograd

can_save_memory = _VERSION >= (2, 5)  # whether torch can return the active saved-tensor hooks
can_predict_memory = _VERSION >= (2, 5)  # fake tensors can be released while a network of them runs


def saved_tensor_hooks() -> Any:
    """The innermost active saved-tensor hooks; ``None`` if there are none, or if torch cannot return them."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) if can_save_memory else None


@contextmanager
def without_saved_tensor_hooks() -> Iterator[None]:
    """A context, or a decorator, in which no saved-tensor hooks are active, from PyTorch 2.5 on."""
    removed = []
    while (hooks := saved_tensor_hooks()) is not None:
        torch._C._autograd._pop_saved_tensors_default_hooks()
        removed.append(hooks)
    try:
        yield
    finally:
        for hooks in reversed(removed):
            torch._C._autograd._push_saved_tensors_default_hooks(*hooks)


def is_checkpointing() -> bool:
    """Whether a non-reentrant ``torch.utils.checkpoint`` drops what is saved now; False before PyTorch 2.5."""
    hooks = saved_tensor_hooks()
    return hooks is not None and getattr(hooks[0], '__module__', None) == 'torch.utils.checkpoint'


GENERATORS_HAVE_OFFSETS = hasattr(torch.Generator, 'get_offset')  # on a GPU

_EDGES = _VERSION >= (2, 5)  # torch.autograd.grad accepts a GradientEdge as an output
_run_backward: Any = torch.autograd.Variable._execution_engine.run_backward
_PythonNode = torch._C._FunctionBase
_GradientEdge: Any = getattr(torch.autograd.graph, 'GradientEdge', None)
_EDGES_OWN = 'ownership_token' in getattr(_GradientEdge, '_fields', ())  # an edge can keep another node alive


class _WithoutStorage(torch.autograd.Function):
    """A tensor of the input's shape that stores one element and passes its gradient on to the input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.new_zeros(()).expand(x.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def output_edge(out: Tensor) -> Any:
    """An output for ``torch.autograd.grad`` in place of ``out``, with which the memory of ``out`` can be released.

    Args:
        out: Requires grad.

    Returns:
        A ``GradientEdge``. Before PyTorch 2.5, a tensor of the same shape that stores one element.
    """
    if _EDGES:
        node = out.grad_fn
        if node is None or not torch.is_grad_enabled():
            return torch.autograd.graph.get_gradient_edge(out)
        if not isinstance(node, _PythonNode):
            return _GradientEdge(node, out.output_nr)
        following = out.view_as(out).grad_fn  # a node that is written in Python is kept alive only by the next one
        return _GradientEdge(node, out.output_nr, following) if _EDGES_OWN else _GradientEdge(following, 0)
    with torch.enable_grad():
        return _WithoutStorage.apply(out)


def differentiate(edge: Any, inputs: Sequence[Tensor], gradient: Tensor, retain_graph: bool) -> Sequence[Any]:
    """``torch.autograd.grad(edge, inputs, gradient, retain_graph, allow_unused=True)`` without checks of its arguments.

    Args:
        edge: An :func:`output_edge`.
        inputs: Tensors that require grad.
        gradient: Of the output; its shape and dtype.
        retain_graph: As for ``torch.autograd.grad``.

    Returns:
        A gradient or None for each input.
    """
    if not inputs:
        return ()
    return _run_backward((edge, ), (gradient, ), retain_graph, False, tuple(inputs), True, accumulate_grad=False)


def is_graph_retained() -> bool:
    """Whether the running backward was asked to retain the graph; True where PyTorch, before 2.5, cannot tell."""
    ask = getattr(torch._C._autograd, '_get_current_graph_task_keep_graph', None)
    return True if ask is None else bool(ask())


def is_transformed() -> bool:
    """Whether a transform of ``torch.func`` or forward-mode AD is active; both need a graph that they can transform."""
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0


_is_batched_in_autograd: Callable[[Tensor], bool] = getattr(
    torch._C._functorch, 'is_legacy_batchedtensor', lambda x: 'Batched' in repr(torch._C._dispatch_keys(x)))  # 2.2


def is_batched(gradient: Tensor) -> bool:
    """Whether this is a batch of gradients, in a backward with ``is_grads_batched=True`` or within ``vmap``."""
    return torch._C._functorch.is_batchedtensor(gradient) or _is_batched_in_autograd(gradient)


def edge_node(edge: Any) -> Any:
    """The node of autograd's graph that an :func:`output_edge` starts from; keep the edge while the node is used."""
    return edge.grad_fn if isinstance(edge, Tensor) else edge.node


# ------------------------------------------------------------------------------------------------- FSDP2

def is_fully_sharded(module: torch.nn.Module) -> bool:
    """Whether ``torch.distributed.fsdp.fully_shard`` was applied to this module; PyTorch 2.6 and later."""
    fsdp = sys.modules.get('torch.distributed.fsdp')
    cls = getattr(fsdp, 'FSDPModule', None)
    return cls is not None and isinstance(module, cls)


# ------------------------------------------------------------------------------------------------- operators


def backward_into(operator: Callable[..., Tensor], *args: Any, **written: Tensor) -> Tensor:
    """``operator(*args, **written)``, where the operator is an activation's backward that writes to a given tensor.

    On the meta device PyTorch has such operators since 2.2.

    Args:
        operator: For example ``torch.ops.aten.silu_backward.grad_input``.
        args: Its other arguments.
        written: The tensor that receives the gradient, by the operator's name for it; returned.
    """
    grad_input, = written.values()
    if _VERSION < (2, 2) and grad_input.is_meta:
        return grad_input
    return operator(*args, **written)


def _of_shapes(formula: Callable[..., int], *args: Any, out_val: Any, **kwargs: Any) -> int:
    args, kwargs, out = tree_map(lambda x: x.shape if isinstance(x, Tensor) else x, (args, kwargs, out_val))
    return formula(*args, **kwargs, out_shape=out)


def flop_registry() -> Dict[Any, Callable[..., int]]:
    """For each operator, the floating-point operations of a call, from its arguments and its output as ``out_val``."""
    if hasattr(flop_counter, 'flop_registry'):  # 2.2
        return flop_counter.flop_registry
    of_shapes: Dict[Any, Callable[..., int]] = vars(flop_counter)['flop_mapping']
    return {operator: partial(_of_shapes, formula) for operator, formula in of_shapes.items()}


@contextmanager
def without_attention_fast_path() -> Iterator[None]:
    """Without the operators that compute a whole attention or transformer layer in inference.

    Before PyTorch 2.3 they are used only where no gradient is recorded, so gradients are recorded here.
    """
    mha = getattr(torch.backends, 'mha', None)
    if mha is None:
        with torch.enable_grad():
            yield
        return
    enabled = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        mha.set_fastpath_enabled(enabled)


def without_cudnn_attention(device_type: str) -> ContextManager[Any]:
    """Without the cuDNN kernel of scaled dot-product attention, which newer GPUs and versions of PyTorch try first.

    It has no gradient for the bias, and PyTorch checks for one only where a graph is recorded. A compiled function
    chooses among all other kernels, also those that the user has disabled: the compiler cannot ask.
    """
    if device_type != 'cuda' or not hasattr(torch.backends.cuda, 'enable_cudnn_sdp'):
        return nullcontext()
    if not is_compiling():
        return _cudnn_attention_disabled()
    if _VERSION < (2, 6):  # the compiler does not know the context manager
        return nullcontext()
    kernels = torch.nn.attention.SDPBackend
    return torch.nn.attention.sdpa_kernel([kernels.FLASH_ATTENTION, kernels.EFFICIENT_ATTENTION, kernels.MATH])


@contextmanager
def _cudnn_attention_disabled() -> Iterator[None]:
    enabled = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(enabled)


# ------------------------------------------------------------------------------------------------- storages

_OWN_OBJECT = _VERSION >= (2, 2)  # a storage has one Python object, which lives as long as it does


class _Watched(NamedTuple):
    storage: StorageWeakRef
    freed: Callable[[Any], None]


def when_freed(storage: torch.UntypedStorage, freed: Callable[[Any], None]) -> Any:
    """Call ``freed`` with one argument when a storage has been freed, as a weak reference does.

    Returns:
        An object to keep until then. Before PyTorch 2.2 the call waits for :func:`notice_freed`.
    """
    return weakref.ref(storage, freed) if _OWN_OBJECT else _Watched(StorageWeakRef(storage), freed)


def notice_freed(watched: Iterable[Any]) -> None:
    """Make the calls that are due for results of :func:`when_freed`. Does nothing from PyTorch 2.2 on."""
    if not _OWN_OBJECT:
        for storage, freed in [entry for entry in watched if entry.storage.expired()]:
            freed(storage)


# ------------------------------------------------------------------------------------------------- torch.load

_SAFE_GLOBALS = _VERSION >= (2, 6)  # weights_only=True is the default, and safe globals may be pairs with a name


def add_safe_globals(names: Sequence[Any]) -> None:
    """``torch.serialization.add_safe_globals``; before PyTorch 2.6 ``torch.load`` accepts everything by default."""
    if _SAFE_GLOBALS:
        torch.serialization.add_safe_globals(list(names))


def load_weights_only(file: str, map_location: Any, names: Sequence[Any], mmap: bool = False) -> Any:
    """``torch.load(..., weights_only=True)`` that constructs some further classes as well.

    Args:
        file: Path of a checkpoint.
        map_location: See ``torch.load``.
        names: Classes and functions, or pairs of one and the name that the file has for it, as
            ``torch.serialization.safe_globals`` takes them.
        mmap: Whether tensors stay on disk until they are read, see ``torch.load``.

    Raises:
        pickle.UnpicklingError: If the file holds any other class or function; the message has the form
            ``GLOBAL <name>``.
    """
    if _SAFE_GLOBALS:
        known = torch.serialization.get_safe_globals()  # those given to `safe_globals` are removed at its end
        with torch.serialization.safe_globals([name for name in names if name not in known]):
            return torch.load(file, map_location=map_location, weights_only=True, mmap=mmap)
    return torch.load(file, map_location=map_location, pickle_module=_restricted_pickle(names), weights_only=False,
                      mmap=mmap)


_ALLOWED_SINCE_2_6 = (set, complex, bytearray, Counter, torch.device, (codecs.encode, '_codecs.encode'),
                      torch._utils._rebuild_parameter_with_state, torch._utils._rebuild_qtensor)


def _restricted_pickle(names: Sequence[Any]) -> Any:
    """A replacement of the module ``pickle`` that finds only PyTorch's own classes and functions and those named.

    The unpickler of ``weights_only=True`` constructs further classes since PyTorch 2.4, and takes a function under
    another name since 2.6.
    """
    found = dict(torch._weights_only_unpickler._get_allowed_globals())
    found.update({str(dtype): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)})
    for entry in (*_ALLOWED_SINCE_2_6, *names):
        target, name = entry if isinstance(entry, tuple) else (entry, f'{entry.__module__}.{entry.__qualname__}')
        found[name] = target

    class Unpickler(pickle.Unpickler):

        def find_class(self, module: str, name: str) -> Any:
            full_name = f'{module.replace("__builtin__", "builtins")}.{name}'
            if full_name not in found:
                raise pickle.UnpicklingError(f'Unsupported: GLOBAL {full_name}')
            return found[full_name]

    def load(file: Any, **options: Any) -> Any:
        return Unpickler(file, **options).load()

    return SimpleNamespace(__name__='pickle', Unpickler=Unpickler, load=load)
