"""The gradients of one evaluation of a function, taken within a backward."""
from collections import OrderedDict, deque
from operator import attrgetter
from typing import Any, Dict, Optional, Sequence

import torch
from torch import Tensor

from mmrev import compat

from .streams import StreamPart, holders, shares_memory

WeightGradients = Dict[int, Optional[Tensor]]  # by the weight's `id`

hooks = attrgetter('_backward_hooks')  # of a weight; None or a dictionary


def has_hooks(weight: Tensor) -> bool:
    """Whether hooks run when the weight's gradient is computed, or accumulated."""
    return bool(hooks(weight) or getattr(weight, '_post_accumulate_grad_hooks', None))


def differentiate_without(hooked: Sequence[Dict[int, Any]], *args: Any) -> Sequence[Optional[Tensor]]:
    """``compat.differentiate(*args)`` without the weight hooks ``hooked``.

    They run once, on the gradient that the node returns.
    """
    entries = [OrderedDict(hooks) for hooks in hooked]
    removal, restoral = map(OrderedDict.clear, hooked), map(OrderedDict.update, hooked, entries)
    try:
        deque(removal, maxlen=0)  # a single C call, which Ctrl-C cannot interrupt
        return compat.differentiate(*args)
    finally:
        deque(restoral, maxlen=0)


def unshared(gradient: Optional[Tensor]) -> Optional[Tensor]:
    """A gradient, or a copy if another tensor shares its memory."""
    if gradient is None or gradient.layout is not torch.strided or holders(gradient) == 1:
        return gradient
    return gradient.clone()


def is_held_elsewhere(gradient: Tensor, target: StreamPart) -> bool:
    """Whether a tensor shares the memory of ``gradient``, other than the stream's gradient that it is a part of."""
    return holders(gradient) > (1 if target.start is None else 2)


def add_weight_gradients(weights: Sequence[Tensor], found: Sequence[Optional[Tensor]], foreign: Optional[Tensor],
                         total: WeightGradients) -> None:
    """Add gradients of weights to ``total``, by ``id``; one that shares memory with ``foreign`` is copied."""
    ids = list(map(id, weights))
    if foreign is None and total.keys().isdisjoint(ids):
        total.update(zip(ids, found))
        return
    for i, g in zip(ids, found):
        if g is None:
            continue
        earlier = total.get(i)
        if earlier is not None:  # PyTorch adds a sparse gradient to a dense one, not the other way round
            g = earlier + g if earlier.layout is torch.strided else g + earlier
        elif g.layout is not torch.strided or shares_memory(g, foreign):
            g = g.clone()
        total[i] = g
