"""Every error says what is wrong, where, and how to fix it; backends, exports and conversions."""
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmrev.layers import ABN, InPlaceABN, InPlaceABNSync
from mmrev.layers.inplace_abn import abn, inplace_abn, inplace_abn_sync
from mmrev.surgery import convert_sync, revert_sync
from support.layers import random


@pytest.mark.parametrize('arguments, message', [
    (dict(activation='gelu'), "`activation` must be one of 'leaky_relu', 'elu', 'identity', 'relu'; got 'gelu'"),
    (dict(activation_param=0), 'slope of `leaky_relu`, `activation_param`, must be positive.*got 0'),
    (dict(activation_param=-0.1), 'must be positive.*got -0.1'),
    (dict(activation='elu', activation_param=0), 'alpha of `elu`, `activation_param`, must be positive.*got 0'),
    (dict(eps=0), '`eps` must be positive'),
    (dict(backend='cuda'), "`backend` must be one of 'auto', 'torch', 'inplace_abn'; got 'cuda'"),
])
def test_arguments_are_checked_when_the_layer_is_made(arguments, message):
    with pytest.raises(ValueError, match=message):
        InPlaceABN(4, **arguments)


@pytest.mark.parametrize('kind', [ABN, InPlaceABN, InPlaceABNSync])
@pytest.mark.parametrize('shape, message', [
    ((1, 4), r'\(4\) needs more than one value per channel.*\(1, 4\).*`norm_eval=True`'),
    ((1, 4, 1, 1), 'needs more than one value per channel'),
    ((2, 3, 5), r'\(4\) has 4 channels, but its input has 3: \(2, 3, 5\)'),
    ((4, ), r'\(4\) takes an input of 2 to 5 dimensions.*got shape \(4,\)'),
    ((2, 4, 1, 1, 1, 2), 'takes an input of 2 to 5 dimensions'),
])
def test_inputs_are_checked(kind, shape, message):
    with pytest.raises(ValueError, match=kind.__name__ + '.*' + message.lstrip('.*')) as caught:
        kind(4)(torch.zeros(shape))
    assert kind.__name__ in str(caught.value)


def test_one_value_per_channel_is_fine_with_running_statistics():
    assert InPlaceABN(4).eval()(torch.ones(1, 4)).shape == (1, 4)


@pytest.mark.parametrize('grad', [True, False])
def test_relu_with_batch_statistics_is_refused_with_the_reason(grad):
    layer = InPlaceABN(4, activation='relu')
    with torch.set_grad_enabled(grad), pytest.raises(ValueError, match='`relu`.*negative ones cannot be recovered'):
        layer(torch.randn(3, 4))
    layer.eval()(torch.randn(3, 4)).sum().backward()


def test_functional_forms_check_their_arguments():
    x = torch.randn(3, 4)
    with pytest.raises(ValueError, match='no running statistics to normalize by'):
        inplace_abn(x, None, None, None, None, training=False)
    with pytest.raises(ValueError, match='inplace_abn divides by .*`eps` must be positive'):
        inplace_abn(x, None, None, None, None, eps=0)
    with pytest.raises(ValueError, match="got 'gelu'"):
        abn(x, None, None, None, None, activation='gelu')
    with pytest.raises(ValueError, match='inplace_abn_sync needs more than one value'):
        inplace_abn_sync(x[:1], None, None, None, None)


@pytest.mark.parametrize('training', [True, False])
def test_an_output_changed_before_backward_names_the_layer(training):
    layer = nn.Sequential(nn.Conv2d(3, 4, 1), InPlaceABN(4).train(training))
    out = layer(torch.randn(2, 3, 5, 6))
    out += 1
    with pytest.raises(RuntimeError, match=r'output of InPlaceABN\(4\), shape \(2, 4, 5, 6\), was modified in place.*'
                       r'`out = out \+ x` instead of `out \+= x`'):
        out.sum().backward()


def test_an_input_changed_before_backward_does_no_harm():
    torch.manual_seed(0)
    layer, w = InPlaceABN(4), torch.randn(4, requires_grad=True)
    y = torch.randn(3, 4) + w
    z = layer(y)
    y.data.zero_(), y.detach().zero_()
    z.square().sum().backward()
    assert w.grad.isfinite().all()


def test_second_backward_and_second_derivatives_raise():
    x = torch.randn(3, 4, requires_grad=True)
    loss = InPlaceABN(4)(x).square().sum()
    loss.backward()
    with pytest.raises(RuntimeError, match='backward through the graph a second time'):
        loss.backward()
    with pytest.raises(RuntimeError, match=r'InPlaceABN\(4\) has no second derivatives'):
        torch.autograd.grad(InPlaceABN(4)(x).sum(), x, create_graph=True)


def test_the_switch_is_not_a_layer():
    with pytest.raises(RuntimeError, match='call the layer that contains it'):
        InPlaceABN(4).statistics(torch.zeros(2, 4))


# ------------------------------------------------------------------------------------------------------------- backend


def test_an_absent_compiled_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'inplace_abn', None)
    with pytest.raises(ImportError, match="`backend='inplace_abn'` needs the compiled package.*pip install"):
        InPlaceABN(4, backend='inplace_abn')


def test_the_compiled_package_is_used_in_training_where_asked_for(monkeypatch):
    calls = []

    def stand_in(x, *arguments, **kwargs):
        calls.append((arguments[4:], kwargs))
        return x

    monkeypatch.setitem(sys.modules, 'inplace_abn', SimpleNamespace(inplace_abn=stand_in, inplace_abn_sync=stand_in))
    x = torch.randn(3, 4)
    for layer in (InPlaceABN(4), InPlaceABN(4, backend='torch'), InPlaceABN(4, backend='inplace_abn').eval()):
        with torch.no_grad():
            layer(x)
    assert not calls
    assert InPlaceABN(4, activation='elu', backend='inplace_abn')(x) is x
    InPlaceABNSync(4, backend='inplace_abn').eval()(x)
    assert calls == [((True, 0.1, 1e-5, 'elu', 1.), {}), ((False, 0.1, 1e-5, 'leaky_relu', 0.01), {})]
    with pytest.raises(ValueError, match="compiled package has no `relu`; use `backend='torch'`"):
        InPlaceABN(4, activation='relu', backend='inplace_abn').eval()(x)


# ------------------------------------------------------------------------------------------------------------- exports


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), InPlaceABN(4), nn.Conv2d(4, 2, 1), InPlaceABNSync(2, activation='elu'))
    network.double()(random(4, 3, 5, 5))
    return network


def test_a_trace_and_an_exported_program_equal_the_network_in_eval(network):
    network.eval()
    x, other = random(2, 3, 5, 5), random(2, 3, 5, 5, seed=2)
    traced = torch.jit.trace(network, x)
    torch.testing.assert_close(traced(other), network(other))
    exported = torch.export.export(network, (x, ))
    torch.testing.assert_close(exported.module()(other), network(other))
    assert not any('autograd' in str(node.target) for node in exported.graph.nodes)


def test_a_compiled_network_trains_the_same(network):
    x = random(2, 3, 5, 5)
    found = []
    for run in (network, torch.compile(network, backend='eager', fullgraph=True)):
        network.zero_grad()
        run(x).square().sum().backward()
        found.append([p.grad for p in network.parameters()])
    torch.testing.assert_close(*found)


# ---------------------------------------------------------------------------------------------------------- conversion


def test_conversion_to_sync_and_back_keeps_everything():
    shared = InPlaceABN(4, activation='elu', momentum=None)
    network = nn.Sequential(shared, nn.Sequential(ABN(4, activation_param=0.2), shared), nn.BatchNorm1d(4))
    network[1][0].statistics.eval(), network[1].eval(), shared.train()
    before, names = dict(network.named_parameters()), list(network.state_dict())
    fired = []
    shared.register_forward_hook(lambda *_: fired.append(1))
    group = object()
    assert convert_sync(network, group) is network
    first, second = network[0], network[1][0]
    assert type(first) is type(second) is InPlaceABNSync and network[1][1] is first and first.group is group
    assert type(network[2]) is nn.BatchNorm1d
    assert first.training and not second.training and not second.statistics.training
    assert (first.activation, first.momentum, second.activation_param) == ('elu', None, 0.2)
    assert list(network.state_dict()) == names and all(p is before[k] for k, p in network.named_parameters())
    first.group = None
    first(torch.randn(3, 4))
    assert fired and first.num_batches_tracked == 1
    revert_sync(network)
    assert type(network[0]) is type(network[1][0]) is InPlaceABN and network[1][1] is network[0]
    assert all(p is before[k] for k, p in network.named_parameters()) and network[0].num_batches_tracked == 1
    assert type(revert_sync(convert_sync(shared), ABN)) is ABN
    with pytest.raises(ValueError, match='`kind` must be ABN or InPlaceABN'):
        revert_sync(network, nn.BatchNorm2d)


def test_conversion_by_torch_synchronises_and_loses_nothing():
    network = nn.Sequential(InPlaceABN(4, activation='elu'))
    x = torch.randn(5, 4)
    expected, state = network(x), list(network.state_dict())
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    assert type(converted[0]) is InPlaceABN and converted[0]._group() == (True, None)
    assert list(converted.state_dict()) == state
    torch.testing.assert_close(converted(x), expected)  # no process group here
    assert revert_sync(converted)[0]._group() == (False, None)


# --------------------------------------------------------------------------------------------------------------- hosts


def test_norm_cfg_builds_them_under_the_name_of_a_batchnorm():
    from mmcv.cnn import ConvModule, build_norm_layer
    for name, kind in (('InPlaceABN', InPlaceABN), ('InPlaceABNSync', InPlaceABNSync), ('ABN', ABN)):
        attribute, layer = build_norm_layer(
            dict(type=f'mmrev.{name}', activation='elu', requires_grad=False), 4, postfix=1)
        assert attribute == 'bn1' and type(layer) is kind and layer.activation == 'elu'
        assert not any(p.requires_grad for p in layer.parameters())
    module = ConvModule(3, 4, 3, norm_cfg=dict(type='mmrev.InPlaceABN'), act_cfg=None)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(module(x), nn.functional.leaky_relu(
        nn.functional.batch_norm(module.conv(x), None, None, module.bn.weight + 1e-5, module.bn.bias, True)))
    assert module.conv.bias is None


def test_hosts_freeze_it_and_leave_its_activation_alone():
    from mmcv.cnn import fuse_conv_bn
    from mmengine.model import convert_sync_batchnorm, revert_sync_batchnorm
    from torch.nn.modules.batchnorm import _BatchNorm
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), InPlaceABN(4))
    x = torch.randn(2, 3, 5, 5)
    network(x)
    expected, found = network.eval()(x), network.train()
    for m in found.modules():  # as `norm_eval` of mmdet and mmpretrain does
        if isinstance(m, _BatchNorm):
            m.eval()
    torch.testing.assert_close(network(x), expected)
    assert convert_sync_batchnorm(network)[1]._group()[0]
    assert not revert_sync_batchnorm(network)[1]._group()[0]
    torch.testing.assert_close(fuse_conv_bn(network.eval())(x), expected)


def test_norm_decay_mult_finds_it():
    from mmengine.optim import build_optim_wrapper
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(InPlaceABN(4)))
    wrapper = build_optim_wrapper(network, dict(optimizer=dict(type='SGD', lr=0.1, weight_decay=0.5),
                                                constructor='mmrev.OptimWrapperConstructor',
                                                paramwise_cfg=dict(norm_decay_mult=0, bias_lr_mult=2)))
    groups = {id(g['params'][0]): g for g in wrapper.optimizer.param_groups}
    assert [groups[id(p)]['weight_decay'] for p in network.parameters()] == [0.5, 0.5, 0, 0]
    assert [groups[id(p)]['lr'] for p in network.parameters()] == [0.1, 0.2, 0.1, 0.1]


def test_it_is_a_norm_of_its_own_kind():
    from torch.nn.modules.batchnorm import _BatchNorm
    from torch.nn.modules.instancenorm import _InstanceNorm
    assert not isinstance(InPlaceABN(4), (_BatchNorm, _InstanceNorm))
