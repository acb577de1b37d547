"""Compare a reversible module with itself under plain autograd."""
import copy
from typing import Callable, Dict, List, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from mmrev.reversible import ReversibleSequence, check_reconstruction


def set_reversible(module: nn.Module, reversible: bool) -> nn.Module:
    """Set ``reversible`` of every :class:`ReversibleSequence` in ``module``; return ``module``."""
    found = [m for m in module.modules() if isinstance(m, ReversibleSequence)]
    if not found:
        raise ValueError(f'{type(module).__name__} holds no ReversibleSequence')
    for m in found:
        m.reversible = reversible
    return module


def assert_invertible(module: nn.Module, *inputs: Tensor, tolerance: float = 1e-10) -> None:
    """Check that the backward of ``module(*inputs)`` reconstructs every stream to a relative ``tolerance``.

    Raises:
        AssertionError: If the backward reconstructed nothing.
        ReversibilityError: If a step exceeds ``tolerance``; the message names the first one.
    """
    with check_reconstruction(tolerance) as report:
        outputs = _as_tuple(module(*inputs))
        sum((x.sum() for x in outputs), torch.zeros(())).backward()
    if not report.errors:
        raise AssertionError(f'the backward of {type(module).__name__} undid no step; is it reversible?')


def assert_same_gradients(module: nn.Module,
                          *inputs: Tensor,
                          rtol: float = 1e-9,
                          seed: int = 0,
                          forward: Optional[Callable] = None) -> None:
    """Check that ``module`` computes the same with and without ``reversible``: outputs, all gradients, buffers, and
    the random state afterwards, on the CPU and on each device.

    Args:
        module: Holds one or more :class:`ReversibleSequence`; copied, not changed.
        inputs: Its inputs; the gradients of those that require one are compared.
        rtol: Largest difference relative to the largest value of the tensor, or to 1e-5 of the largest of its kind
            if that is more (a gradient that a following norm cancels is almost zero).
        seed: Random seed that is set before each forward.
        forward: Called as ``forward(module, *inputs)`` in place of ``module(*inputs)``.

    Raises:
        AssertionError: If a tensor differs; the message names the first one.
    """
    ours, plain = (_run(module, inputs, reversible, seed, forward) for reversible in (True, False))
    for kind in plain:
        _compare(kind, ours[kind], plain[kind], rtol)


def _run(module, inputs, reversible: bool, seed: int, forward) -> Dict[str, Dict[str, Optional[Tensor]]]:
    module = set_reversible(copy.deepcopy(module), reversible)
    inputs = [x.detach().clone().requires_grad_(x.requires_grad) for x in inputs]
    torch.manual_seed(seed)
    outputs = _as_tuple(forward(module, *inputs) if forward else module(*inputs))
    _weighted_sum(outputs).backward()
    return {
        'output': dict(enumerate(outputs)),
        'input gradient': {i: x.grad for i, x in enumerate(inputs)},
        'gradient': {name: p.grad for name, p in module.named_parameters()},
        'buffer': dict(module.named_buffers()),
        'next random number': {str(device): torch.rand(1, device=device) for device in _devices(module, inputs)},
    }


def _devices(module: nn.Module, inputs: Sequence[Tensor]) -> List[torch.device]:
    """The CPU and the devices of inputs and parameters, each of which has a generator."""
    found = {x.device for x in (*inputs, *module.parameters()) if x.device.type not in ('cpu', 'meta')}
    return [torch.device('cpu'), *sorted(found, key=str)]


def _weighted_sum(outputs: Sequence[Tensor]) -> Tensor:
    """A scalar in which every element has its own weight."""
    total = torch.zeros(())
    for i, x in enumerate(outputs):
        weights = torch.linspace(-1, 1, x.numel(), dtype=x.dtype, device=x.device).add(0.1 * i).view_as(x)
        total = total + (x * weights).sum()
    return total


def _compare(kind: str, ours: dict, plain: dict, rtol: float) -> None:
    largest = max((x.abs().max().item() for x in plain.values() if x is not None and x.numel()), default=0.)
    for name, expected in plain.items():
        got = ours[name]
        if (got is None) != (expected is None):
            raise AssertionError(f'{kind} {name!r} is {"absent" if got is None else "present"}, under plain autograd '
                                 f'{"absent" if expected is None else "present"}')
        if expected is None or not expected.numel():
            continue
        scale = max(expected.abs().max().item(), 1e-5 * largest)
        error = (got - expected).abs().max().item()
        if not error <= rtol * scale:
            raise AssertionError(f'{kind} {name!r} of shape {tuple(expected.shape)} differs by {error:.3g} of '
                                 f'{scale:.3g} (allowed: {rtol:.0e} of it)')


def _as_tuple(x) -> Tuple[Tensor, ...]:
    return x if isinstance(x, tuple) else (x, )
