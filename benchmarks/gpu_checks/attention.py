"""Which attention kernel runs, on which strides, and that the recomputation runs the same."""
from typing import List, Tuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmrev.layers import MultiheadAttention, PoolingAttention, WindowAttention

from . import On, check

LAYERS = {
    'global': lambda: MultiheadAttention(64, 2),
    'window': lambda: WindowAttention(64, 2, window_size=8),
    'shifted window': lambda: WindowAttention(64, 2, window_size=8, shift=4),
    'pooling': lambda: PoolingAttention(64, 2, (16, 16), stride_kv=2, window_size=8),
}
FORMS_WEIGHTS = ('_softmax', '_safe_softmax')  # of the kernel that forms the matrix of weights


class Kernels(TorchDispatchMode):
    """Notes the operators that attend, with the strides of their tensors: queries, keys, values and the bias."""

    def __init__(self) -> None:
        super().__init__()
        self.found: List[Tuple[str, List[Tuple[int, ...]]]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.split('::')[1]
        if 'attention' in name or name in FORMS_WEIGHTS:
            tensors = [x for x in (*args, *(kwargs or {}).values()) if isinstance(x, Tensor)]
            self.found.append((name, [x.stride() for x in tensors]))
        return func(*args, **(kwargs or {}))


def kernels_of(layer: nn.Module, x: Tensor, autocast: torch.dtype, graph: bool) -> list:
    with Kernels() as kernels, torch.set_grad_enabled(graph):
        with torch.autocast(x.device.type, autocast, enabled=autocast is not torch.float32):
            y = layer(x)
    if graph:
        y.float().sum().backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in layer.parameters())
    return kernels.found


def described(kernels: list) -> str:
    return ', '.join(f'{kernel} on strides {" ".join(map(str, strides))}' for kernel, strides in kernels)


def register(name: str, dtype: torch.dtype) -> None:

    @check(f'attention kernel, {name}, {str(dtype).split(".")[-1]}')
    def same_kernel(on: On) -> str:
        layer, x = LAYERS[name]().to(on.device), torch.randn(2, 16, 16, 64, device=on.device)
        with_graph, without = (kernels_of(layer, x, dtype, graph) for graph in (True, False))
        figure = described(with_graph)
        figure += ', the same without a graph' if without == with_graph else f'; without a graph {described(without)}'
        if on.is_cuda:  # the CPU has no other kernel for the gradient of a bias
            assert with_graph == without, figure
            assert not {kernel for kernel, _ in with_graph} & set(FORMS_WEIGHTS), f'{figure}: forms the weights'
        return figure


for _name in LAYERS:
    for _dtype in (torch.float32, torch.float16, torch.bfloat16):
        register(_name, _dtype)
