"""Update each weight in backward as soon as its gradient is complete, and release the gradient."""
import contextlib
import copy
import threading
from collections import defaultdict
from typing import Any, Iterator, List, Optional, Set

import torch
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.optim import Optimizer

from mmrev.problems import ProblemError, one_line
from mmrev.registry import OPTIM_WRAPPERS

_ORDINARY = "Use optim_wrapper.type='OptimWrapper'"


@OPTIM_WRAPPERS.register_module()
class OptimInBackwardWrapper(OptimWrapper):
    """Update each weight when its gradient arrives, and release the gradient, so that not all gradients are alive.

    Weights and checkpoints are identical to those of mmengine's `OptimWrapper`; either resumes from the other's. At any
    time, only the gradients that one node of the graph returns are alive: those of one layer, or of one coupling of a
    reversible sequence.

    A weight that several parts of the graph use is updated after all of them have contributed. If the graph still needs
    the old value, as with ``weight.detach()`` in an earlier layer, backward raises. ``weight.data`` hides such a use
    from autograd, and so do activation checkpointing and reversible sequences, which read the weight again; the
    gradients of earlier layers are then wrong.

    Args:
        optimizer: One that treats each weight by itself, as SGD and AdamW do.
        accumulative_counts: 1.
        clip_grad: ``None``, or values to clip by: ``dict(type='value', clip_value=...)``.

    Raises:
        ProblemError: For accumulation, for clipping by the norm of all gradients, or for an optimizer that mixes the
            weights; in training, for a model within a wrapper such as DDP, for a weight whose gradient arrives in two
            parts, as under reentrant activation checkpointing, for a weight whose old value the graph still needs, or
            for a second backward before :meth:`step`.

    Example:
        >>> optim_wrapper = dict(type='mmrev.OptimInBackwardWrapper', optimizer=dict(type='AdamW', lr=1e-4))
    """

    def __init__(self, optimizer: Optimizer, accumulative_counts: int = 1, clip_grad: Optional[dict] = None):
        if accumulative_counts != 1:
            raise ProblemError('OptimInBackwardWrapper cannot accumulate gradients over '
                               f'accumulative_counts={accumulative_counts} steps: it keeps none',
                               f'{_ORDINARY}, or set optim_wrapper.accumulative_counts=1')
        if clip_grad and clip_grad.get('type', 'norm') != 'value':
            raise ProblemError('OptimInBackwardWrapper cannot clip by the norm of all gradients: they never exist '
                               'together', f"{_ORDINARY}, or optim_wrapper.clip_grad=dict(type='value', clip_value=1.)")
        if _mixes_weights(optimizer):
            raise ProblemError(f'OptimInBackwardWrapper cannot use {type(optimizer).__name__}, which reads all '
                               'gradients before it updates a weight', f'{_ORDINARY}, or another optimizer')
        super().__init__(optimizer, accumulative_counts, clip_grad)
        self._lock = threading.Lock()  # backward has a thread for each device
        self._stepped = True

    @contextlib.contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Refuse a model that exchanges its gradients after they have been accumulated."""
        if is_model_wrapper(model):
            raise ProblemError(f'OptimInBackwardWrapper cannot train within {type(model).__name__}, which averages '
                               'gradients after a weight would have been updated', f'{_ORDINARY}, or one process')
        with super().optim_context(model):
            yield

    def backward(self, loss: Tensor, **kwargs: Any) -> None:
        """Compute the gradients, and update each weight by its own."""
        if not self._stepped:
            raise ProblemError('OptimInBackwardWrapper cannot add the gradients of two backward passes: the first has '
                               'updated the weights', f'{_ORDINARY}, or call backward once, for the sum of the losses')
        updated: Set[Tensor] = set()
        with contextlib.ExitStack() as hooks:
            for group in self.optimizer.param_groups:
                for weight in group['params']:
                    if weight.requires_grad:
                        handle = weight.register_post_accumulate_grad_hook(
                            lambda weight, group=group: self._update(weight, group, updated))
                        hooks.callback(handle.remove)
            try:
                super().backward(loss, **kwargs)
            except RuntimeError as error:
                if updated and 'modified by an inplace operation' in str(error):
                    raise ProblemError('a tensor changed that backward still needs. OptimInBackwardWrapper had updated '
                                       'weights; one that is read elsewhere, as by `weight.detach()`, cannot be '
                                       f'trained by it: {one_line(error)}', _ORDINARY) from error
                raise
        self._stepped = False

    def _update(self, weight: Tensor, group: dict, updated: Set[Tensor]) -> None:
        if weight in updated:
            raise ProblemError(f'the gradient of a weight of shape {tuple(weight.shape)} arrived in two parts, as '
                               'reentrant activation checkpointing of shared weights gives it; '
                               'OptimInBackwardWrapper has used the first', _ORDINARY)
        updated.add(weight)
        if self.clip_grad_kwargs:
            self.clip_func([weight], **self.clip_grad_kwargs)
        with self._lock, _only(self.optimizer, weight, group):
            self.optimizer.step()
        weight.grad = None

    def step(self, **kwargs: Any) -> None:
        """End the step, in which backward has updated the weights."""
        self._stepped = True


@contextlib.contextmanager
def _only(optimizer: Optimizer, weight: Tensor, group: dict) -> Iterator[None]:
    """Let the optimizer know one weight alone. What it writes to the weight's group or state stays."""
    groups, weights = optimizer.param_groups, group['params']
    optimizer.param_groups, group['params'] = [group], [weight]
    try:
        yield
    finally:
        optimizer.param_groups, group['params'] = groups, weights


def _mixes_weights(optimizer: Optimizer) -> bool:
    """Whether a step changes two small weights together otherwise than one by one."""
    results: List[List[nn.Parameter]] = []
    for together in (True, False):
        weights = [nn.Parameter(torch.tensor([1., 2.])), nn.Parameter(torch.tensor([3., -4.]))]
        twin = copy.copy(optimizer)
        group = dict(optimizer.param_groups[0], params=weights)
        twin.param_groups, twin.state = [group], defaultdict(dict)
        for scale in (5., -.5):
            for weight in weights:
                weight.grad = scale * weight.detach()
            if together:
                twin.step()
            else:
                for weight in weights:
                    with _only(twin, weight, group):
                        twin.step()
        results.append(weights)
    return not all(torch.equal(one, other) for one, other in zip(*results))
