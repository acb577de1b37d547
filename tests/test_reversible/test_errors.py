"""What cannot be inverted, replayed or differentiated is refused; the message says where, and how to fix it."""
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmrev.reversible import (AdditiveStep, NewStream, ReversibilityError, ReversibleSequence, RevSilo, StreamPart,
                              TwoStreamCoupling)
from support.networks import halves, inputs


class Function(nn.Module):
    """A module that calls a Python function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def coupled(function, streams=(0, 1)):
    return ReversibleSequence([TwoStreamCoupling(nn.Linear(6, 6), Function(function), streams)]).double()


def run(module):
    sum(x.sum() for x in module(*inputs('two_stream'))).backward()


@pytest.mark.parametrize('function, message', [
    (lambda x: x.relu_(), 'modified its input in place.*inplace=False'),
    (lambda x: x, 'returned its input or a view'),
    (lambda x: x.view(3, 5, 6), 'returned its input or a view'),
    (lambda x: x[:, :2] * 2, r'returned shape \(3, 2, 6\).*has shape \(3, 5, 6\)'),
    (lambda x: (x, x), 'must return one tensor, got tuple'),
])
def test_function_that_cannot_be_undone_is_named(function, message):
    with pytest.raises(ReversibilityError, match=r'(?s)step 1 \(`couplings.0.g`, Function\).*' + message):
        run(coupled(function))


def test_captured_leaf_that_requires_grad_is_refused():
    captured = torch.ones(6, dtype=torch.float64, requires_grad=True)
    with pytest.raises(ReversibilityError, match=r'couplings.0.g.*shape \(6,\).*gradient would be lost'):
        run(coupled(lambda x: x * captured))


def test_captured_intermediate_result_is_refused():
    leaf = torch.ones(6, dtype=torch.float64, requires_grad=True)
    captured = leaf * 2
    with pytest.raises(ReversibilityError, match='gradient would be lost'):
        run(coupled(lambda x: x * captured))


def test_captured_tensor_is_refused_where_nothing_else_needs_a_gradient():
    captured = torch.ones(6, dtype=torch.float64, requires_grad=True)
    module = coupled(lambda x: x.sin() + captured)
    module.couplings.insert(0, TwoStreamCoupling(Function(lambda x: x * captured), Function(torch.sin)))
    with pytest.raises(ReversibilityError, match='gradient would be lost'):
        module(*inputs('two_stream', requires_grad=False))


@pytest.mark.parametrize('keep', ['undo', 'graph'])
def test_reentrant_checkpoint_within_a_function_is_refused(keep):
    module = coupled(lambda x: checkpoint(torch.sin, x, use_reentrant=True))
    module.keep = keep
    with pytest.raises(ReversibilityError, match=r'couplings.0.g.*reentrant.*`use_reentrant=False`'):
        run(module)


def test_captured_tensor_without_gradient_is_fine():
    captured = torch.ones(6, dtype=torch.float64)
    run(coupled(lambda x: x * captured))


def test_output_changed_in_place_is_noticed():
    outputs = halves()(*inputs('halves'))
    with torch.no_grad():
        outputs[0].mul_(2)
    with pytest.raises(ReversibilityError, match='output 0.*modified in place'):
        outputs[0].sum().backward()


def test_output_changed_in_place_after_a_copy_is_fine():
    output, = halves()(*inputs('halves'))
    output.clone().mul_(2).sum().backward()


def test_weight_changed_between_forward_and_backward_is_noticed():
    module = halves()
    loss = module(*inputs('halves'))[0].sum()
    with torch.no_grad():
        module.couplings[1].f[0].weight.mul_(2)
    with pytest.raises(ReversibilityError, match=r'couplings.1.f.*shape \(4, 1, 3, 3\), was modified in place'):
        loss.backward()


def test_target_among_the_sources_is_refused():
    with pytest.raises(ValueError, match='must not be among its sources'):
        AdditiveStep(nn.Identity(), 0, (0, 1))
    with pytest.raises(ValueError, match='must not be among its sources'):
        AdditiveStep(nn.Identity(), StreamPart(0, 0, 4), (StreamPart(0, 3, 8), ))


@pytest.mark.parametrize('part, message', [
    (-1, 'counted from 0'), (StreamPart(0, 2), 'start < stop'), (StreamPart(0, None, 2), 'start < stop'),
    (StreamPart(0, -2, 3), 'start < stop'), (StreamPart(0, 2, 2), 'start < stop'),
])
def test_streams_and_parts_that_do_not_exist_are_refused(part, message):
    for target, source in ((part, 1), (1, part)):
        with pytest.raises(ValueError, match=message + '.*got StreamPart'):
            AdditiveStep(nn.Linear(6, 6), target, (source, ))


def test_new_stream_must_get_the_next_index():
    module = ReversibleSequence([NewStream(nn.Linear(6, 6), 3)]).double()
    with pytest.raises(ValueError, match='next index, 1, got 3'):
        module(*inputs('new_stream'))


def test_incomplete_silo_is_refused():
    with pytest.raises(ValueError, match='`up` must hold exactly the pairs'):
        RevSilo({(0, 1): nn.Identity()}, {}, num_inputs=1)
    with pytest.raises(ValueError, match='adds no level or one'):
        RevSilo({(0, 1): nn.Identity(), (0, 2): nn.Identity(), (1, 2): nn.Identity()},
                {(1, 0): nn.Identity(), (2, 0): nn.Identity(), (2, 1): nn.Identity()}, num_inputs=1)


def test_cache_every_must_be_positive():
    with pytest.raises(ValueError, match='`cache_every`'):
        ReversibleSequence([], cache_every=0)


@pytest.mark.parametrize('reversible', [True, False])
@pytest.mark.parametrize('streams, given', [((), 'none'), ((None, torch.ones(1, 6)), 'NoneType, Tensor'),
                                            (([torch.ones(1, 6)] * 2, ), 'list')])
def test_streams_that_are_no_tensors_are_refused(streams, given, reversible):
    module = coupled(torch.sin)
    module.reversible = reversible
    with pytest.raises(TypeError, match=f'separate tensors.*got {given}$'):
        module(*streams)


@pytest.mark.parametrize('grad', [True, False])
def test_too_few_streams_are_refused(grad):
    with torch.set_grad_enabled(grad), pytest.raises(ValueError, match='needs stream 1, but there are only 1'):
        coupled(torch.sin)(inputs('two_stream')[0])
