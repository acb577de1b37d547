"""What each step keeps (``keep``), by mixtures of it."""
import copy
from functools import partial

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from mmrev import compat
from mmrev.testing import assert_same_gradients, set_reversible
from support.networks import NETWORKS, halves, inputs, loss_of, two_stream

KEEPS = ('undo', 'state', 'graph')


@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize('name', NETWORKS)
def test_any_mixture_of_what_steps_keep_gives_the_same_gradients(name, seed):
    torch.manual_seed(3)
    module = NETWORKS[name]()
    steps = len(module._steps())
    chosen = torch.randint(3, (steps, ), generator=torch.Generator().manual_seed(seed)).tolist()
    module.keep = [KEEPS[i] for i in chosen]
    module.overlap = seed % 2 == 1 and steps > 1
    assert_same_gradients(module, *inputs(name))
    torch.manual_seed(5)
    streams = inputs(name)
    loss = loss_of(module(*streams))
    loss.backward(retain_graph=True)
    first = [x.grad.clone() for x in streams]
    loss.backward()
    for x, once in zip(streams, first):
        torch.testing.assert_close(x.grad, 2 * once)


def test_keep_by_a_function_of_the_step_and_with_frozen_steps():
    module = two_stream(4)
    module.couplings[0].requires_grad_(False)
    module.keep = lambda step: 'graph' if step.target.stream == 0 else 'undo'
    assert_same_gradients(module, *inputs('two_stream', requires_grad=False))


@pytest.mark.parametrize('keep, message', [(['undo'], 'each of the 6 steps, got 1'), ('all', "got 'all'")])
def test_wrong_keep_is_refused(keep, message):
    module = two_stream(3)
    module.keep = keep
    with pytest.raises(ValueError, match=message):
        module(*inputs('two_stream'))


def test_a_list_of_what_steps_keep_may_be_changed_in_place():
    module = two_stream(2)
    module.keep = ['undo'] * 4
    loss_of(module(*inputs('two_stream')))
    module.keep[0] = 'graph'
    loss_of(module(*inputs('two_stream')))
    assert module._plan.keep[0] == 'graph'


@pytest.mark.parametrize('keep', ['graph', ['graph', 'undo', 'state', 'graph', 'undo', 'graph']])
def test_a_checkpoint_around_the_sequence_has_nothing_to_keep(keep):
    """It drops graphs, and before PyTorch 2.5 evaluates the whole sequence again for each of these steps."""
    module, evaluated = halves(), []
    module.keep = keep
    twin = set_reversible(copy.deepcopy(module), False)
    module.couplings[0].f.register_forward_hook(lambda *_: evaluated.append(None))
    found = []
    for m, run in ((module, partial(checkpoint, module, use_reentrant=False)), (twin, twin)):
        torch.manual_seed(0)
        streams = inputs('halves')
        loss_of(run(*streams)).backward()
        found.append([streams[0].grad, *(p.grad for p in m.parameters())])
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)
    once = [torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(module.buffers(), twin.buffers())]
    assert (all(once), len(evaluated) == 2) == (compat.can_save_memory, compat.can_save_memory)
