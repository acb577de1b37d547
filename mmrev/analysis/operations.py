"""Parameters and multiply-accumulates of a network, part by part.

Operators are counted in the dispatcher, so it does not matter what calls them (a module, a function, a custom autograd
function), and the meta device suffices. mmengine's ``get_model_complexity_info`` traces the model, which fails on that
device, and counts neither attention nor the operators within an autograd function (mmengine 0.10.7).
"""
from collections import defaultdict
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import sdpa_flop_count

from mmrev.compat import flop_registry, without_attention_fast_path

from .module_stack import ModuleStack

aten = torch.ops.aten


class Operations(NamedTuple):
    """Parameters and operations of a module, including its submodules.

    Attributes:
        parameters: Number of parameters.
        macs: Multiply-accumulates of convolutions, linear layers and attention.
        published: ``macs`` and what published figures count in addition, see :func:`count_operations`.
    """
    parameters: int
    macs: int
    published: int


def _attention(q, k, v, *_, out_val=None, **__) -> int:
    return sdpa_flop_count(q.shape, k.shape, v.shape)


def _existing(*names: str) -> List[Any]:
    """The operators that this version of PyTorch has."""
    return [getattr(aten, name) for name in names if hasattr(aten, name)]


_PRODUCTS: Dict[Any, Callable[..., int]] = {  # two operations each per multiply-accumulate
    **flop_registry(),
    **dict.fromkeys(_existing('_scaled_dot_product_flash_attention_for_cpu'), _attention),
}
_CONVOLUTIONS = (aten.convolution, aten._convolution, aten.cudnn_convolution, aten.mkldnn_convolution)
_PER_VALUE: Dict[Any, int] = {  # operations per output value
    **dict.fromkeys(_existing(
        'native_batch_norm', '_native_batch_norm_legit', '_native_batch_norm_legit_no_training',
        '_batch_norm_with_update', '_batch_norm_no_update', 'cudnn_batch_norm', 'batch_norm_elemt', 'native_layer_norm',
        'native_group_norm'), 2),
    aten.upsample_nearest2d: 1,
    aten.upsample_bilinear2d: 11,
    aten.upsample_bicubic2d: 259,
}


class _OperationCounter(TorchDispatchMode):
    """Counts the operators that run within the context, by module."""

    def __init__(self, running: ModuleStack):
        super().__init__()
        self.macs: Dict[str, int] = defaultdict(int)
        self.others: Dict[str, int] = defaultdict(int)
        self._running = running

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        operator = func.overloadpacket
        if operator in _PRODUCTS:
            self.macs[self._running.path] += _PRODUCTS[operator](*args, **kwargs, out_val=out) // 2
        if operator in _CONVOLUTIONS and args[2] is not None:
            self.others[self._running.path] += out.numel()  # its bias
        if operator in _PER_VALUE:
            values = out if isinstance(out, Tensor) else out[0]
            self.others[self._running.path] += _PER_VALUE[operator] * values.numel()
        return out


def count_operations(model: nn.Module, *inputs: Any, **kwargs: Any) -> Dict[str, Operations]:
    """Count the parameters of ``model`` and the operations of ``model(*inputs, **kwargs)`` in eval mode.

    :attr:`Operations.published` counts like ``thop`` 0.0.31, with which MACs are often published: in addition to
    multiply-accumulates, one operation per value for the bias of a convolution, 2 for a norm, and 1 (nearest), 11
    (bilinear) or 259 (bicubic) per output value of an interpolation. Activations, products, sums and means of tensors
    are not counted. Neither are pools, which ``thop`` counts if they are modules. Operators of C++ extensions
    (RoIAlign) are not seen.

    Args:
        model: On any device; on the meta device nothing is computed.
        inputs: Inputs of the model, on the same device; a batch is counted as a whole.

    Returns:
        The counts of every module by its path, with those of the modules within it; the model itself is ``''``.

    Example:
        >>> with torch.device('meta'):
        ...     model, x = nn.Conv2d(3, 8, 3, padding=1, bias=False), torch.empty(1, 3, 10, 10)
        >>> count_operations(model, x)['']
        Operations(parameters=216, macs=21600, published=21600)
    """
    flags = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with (ModuleStack(model) as running, torch.no_grad(), without_attention_fast_path(),
              _without_deterministic_algorithms(), _OperationCounter(running) as counter):
            model(*inputs, **kwargs)
    finally:
        for module, training in flags.items():
            module.training = training
    macs, others = _with_descendants(counter.macs), _with_descendants(counter.others)
    return {
        path: Operations(sum(p.numel() for p in module.parameters()), macs[path], macs[path] + others[path])
        for path, module in model.named_modules()
    }


@contextmanager
def _without_deterministic_algorithms() -> Iterator[None]:
    """Without those that split an interpolation into operators which are not counted (all devices but the CPU)."""
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)


def _with_descendants(counts: Dict[str, int]) -> Dict[str, int]:
    """The counts of each path, including all paths below it; the root is ``''``."""
    sums: Dict[str, int] = defaultdict(int)
    for path, number in counts.items():
        while path:
            sums[path] += number
            path = path.rpartition('.')[0]
        sums[''] += number
    return sums
