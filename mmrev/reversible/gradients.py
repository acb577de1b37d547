"""The gradients of one evaluation of a function, taken within a backward."""
from collections import OrderedDict, deque
from contextlib import contextmanager
from operator import attrgetter
from typing import Any, Dict, Iterator, List, Optional, Sequence

import torch
from torch import Tensor

from mmrev import compat

from .streams import holders, shares_memory

WeightGradients = Dict[int, Optional[Tensor]]  # by the weight's `id`

_hooks = attrgetter('_backward_hooks')


def hooks_on(weights: Sequence[Tensor]) -> List[Dict[int, Any]]:
    """The hooks of each weight that has any."""
    return list(filter(None, map(_hooks, weights)))


def differentiate(edge: Any, sources: List[Tensor], weights: List[Tensor], gradient: Tensor, retain_graph: bool,
                  hooked: Sequence[Dict[int, Any]]) -> Sequence[Optional[Tensor]]:
    """The gradients of sources and weights. The weight hooks ``hooked`` do not run here.

    They run once, on the gradient that the node returns.
    """
    if not hooked:
        return compat.differentiate(edge, sources + weights, gradient, retain_graph)
    with _without(hooked):
        return compat.differentiate(edge, sources + weights, gradient, retain_graph)


@contextmanager
def _without(hooked: Sequence[Dict[int, Any]]) -> Iterator[None]:
    entries = [OrderedDict(hooks) for hooks in hooked]
    removal, restoral = map(OrderedDict.clear, hooked), map(OrderedDict.update, hooked, entries)
    try:
        deque(removal, maxlen=0)  # a single C call, which Ctrl-C cannot interrupt
        yield
    finally:
        deque(restoral, maxlen=0)


def add_weight_gradients(weights: Sequence[Tensor], found: Sequence[Optional[Tensor]], gradient: Tensor,
                         total: WeightGradients) -> None:
    """Add gradients of weights to ``total``, by ``id``; they may be views of the output's ``gradient``."""
    ids = list(map(id, weights))
    if holders(gradient) == 1 and id(gradient) not in map(id, found) and total.keys().isdisjoint(ids):
        total.update(zip(ids, found))
        return
    for i, g in zip(ids, found):
        if g is None:
            continue
        earlier = total.get(i)
        if earlier is not None:
            g = earlier + g
        elif g.layout is not torch.strided or shares_memory(g, gradient):
            g = g.clone()  # a view of the stream's gradient, which is overwritten later
        total[i] = g
