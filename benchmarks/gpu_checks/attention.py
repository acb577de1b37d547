"""Which attention kernel runs, and that the recomputation runs the same."""
from typing import List

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
    """Notes the operators that attend."""

    def __init__(self) -> None:
        super().__init__()
        self.found: List[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.split('::')[1]
        if 'attention' in name or name in FORMS_WEIGHTS:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def kernels_of(layer: nn.Module, x: Tensor, autocast: torch.dtype, graph: bool) -> List[str]:
    with Kernels() as kernels, torch.set_grad_enabled(graph):
        with torch.autocast(x.device.type, autocast, enabled=autocast is not torch.float32):
            y = layer(x)
    if graph:
        y.float().sum().backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in layer.parameters())
    return kernels.found


def register(name: str, dtype: torch.dtype) -> None:

    @check(f'attention kernel, {name}, {str(dtype).split(".")[-1]}')
    def same_kernel(on: On) -> str:
        layer, x = LAYERS[name]().to(on.device), torch.randn(2, 16, 16, 64, device=on.device)
        with_graph, without = (kernels_of(layer, x, dtype, graph) for graph in (True, False))
        figure = f'{", ".join(with_graph)} with a graph, {", ".join(without)} without'
        if on.is_cuda:  # the CPU has no other kernel for the gradient of a bias
            assert with_graph == without, figure
            assert not set(with_graph) & set(FORMS_WEIGHTS), f'{figure}: the matrix of weights is formed'
        return figure


for _name in LAYERS:
    for _dtype in (torch.float32, torch.float16, torch.bfloat16):
        register(_name, _dtype)
