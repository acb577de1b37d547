"""Search the graph of a function for gradients that would be lost, or counted twice."""
from typing import Any, Callable, Dict, Sequence

import torch
from torch import Tensor

from mmrev import compat

from .errors import ReversibilityError, captured

_AccumulateGrad: Any = vars(torch._C._functions)['AccumulateGrad']


def refuse_captured(edge: Any, known: Sequence[Tensor], step: Callable[[], str]) -> None:
    """Refuse a leaf of a function's graph that is neither a weight nor a source: its gradient would be lost.

    Also refuse a reentrant checkpoint, which PyTorch cannot differentiate with respect to given tensors.

    Args:
        edge: Where the graph starts.
        known: Weights and sources. The graph behind one that is not a leaf is not searched.
        step: Describes the step.

    Raises:
        ReversibilityError: Naming the step, and the leaf's shape.
    """
    leaves = {id(x) for x in known}
    start = compat.edge_node(edge), edge.output_nr
    seen = {(x.grad_fn, x.output_nr) for x in known if x.grad_fn is not None}
    todo = [] if start in seen else [start]
    while todo:
        node, _ = todo.pop()
        if isinstance(node, _AccumulateGrad) and node.variable.requires_grad and id(node.variable) not in leaves:
            raise ReversibilityError(captured(step(), node.variable))
        if node.name() == 'CheckpointFunctionBackward':
            raise ReversibilityError(f'{step()} uses a reentrant `torch.utils.checkpoint`, which cannot be '
                                     f'differentiated within a reversible backward; set `use_reentrant=False`')
        for following in node.next_functions:
            if following[0] is not None and following not in seen:
                seen.add(following)
                todo.append(following)


def refuse_dependent(computed: Sequence[Tensor], weights: Dict[int, Tensor], step: Callable[[], str]) -> None:
    """Refuse weights of one function that are computed from others of them: those would get part of a gradient twice.

    Args:
        computed: Weights that have a graph.
        weights: All weights of the function that require grad, by ``id``.
        step: Describes the step.

    Raises:
        ReversibilityError: Naming the step.
    """
    ends = {(p.grad_fn, p.output_nr) for p in computed}
    todo = [following for p in computed for following in p.grad_fn.next_functions]  # type: ignore[union-attr]
    seen = set(todo)
    while todo:
        node, output = todo.pop()
        if node is None:
            continue
        if (node, output) in ends or isinstance(node, _AccumulateGrad) and id(node.variable) in weights:
            raise ReversibilityError(
                f'a weight of {step()} is computed from another weight of the same function, as by `functional_call` '
                f'with weights that depend on each other; set `reversible=False` for that')
        new = set(node.next_functions) - seen
        seen |= new
        todo += new
