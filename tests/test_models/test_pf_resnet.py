"""ResNets with parameter-free layers: against the published networks, and what a host expects of a backbone."""
import pytest
import torch
from mmengine.runner.activation_checkpointing import turn_on_activation_checkpointing
from torch import Tensor, nn

from mmrev.checkpoints.families.parameter_free import convert_state_dict
from mmrev.layers import ABN, MaxPool3x3
from mmrev.models.backbones import PFResNet
from mmrev.models.backbones.pf_resnet import conv_norm_act
from mmrev.registry import MODELS
from support.golden import GoldenRecord, assert_agrees
from support.images import image
from support.networks import loss_of

OPERATIONS = ('conv', 'max', 'hybrid')


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    """Two blocks a stage; what is asked here does not depend on that, but the time does."""
    monkeypatch.setitem(PFResNet.arch_zoo, 50, (2, 2, 2, 2))


def build(operation='hybrid', **kwargs) -> nn.Module:
    torch.manual_seed(0)
    return MODELS.build(dict(type='mmrev.PFResNet', depth=50, operation=operation, **dict(dict(width=0.25), **kwargs)))


class Classifier(nn.Module):
    """As the published networks end."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Module()
        self.head.fc = nn.Linear(backbone.channels[-1], 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.head.fc(self.backbone(x)[-1].mean((2, 3)))


@pytest.mark.parametrize('operation', ['max', 'hybrid'])
def test_golden_record(operation, monkeypatch):
    monkeypatch.undo()
    assert_agrees(Classifier(PFResNet(50, operation)), GoldenRecord(f'pf_resnet50_{operation}'), convert_state_dict)


@pytest.mark.parametrize('depth, operation, number', [
    (50, 'conv', 25557032), (50, 'max', 14232232), (50, 'hybrid', 17330600), (101, 'conv', 44549160)])
def test_number_of_parameters_is_the_published_one(depth, operation, number, monkeypatch):
    monkeypatch.undo()
    with torch.device('meta'):
        assert sum(p.numel() for p in Classifier(PFResNet(depth, operation)).parameters()) == number


def test_weights_have_the_names_of_torchvision():
    names = {key for key in build('conv').state_dict() if 'num_batches' not in key}
    assert {'conv1.weight', 'bn1.running_mean', 'layer1.0.conv2.weight', 'layer2.1.bn3.bias',
            'layer4.0.downsample.0.weight', 'layer4.0.downsample.1.bias'} <= names


def test_hybrid_keeps_a_convolution_where_the_resolution_changes():
    model = build('hybrid')
    assert [name for name, m in model.named_modules() if name.endswith('conv2') and m is not None] == [
        f'layer{i}.0.conv2' for i in (2, 3, 4)]
    assert sum(isinstance(m, MaxPool3x3) for m in build('max').modules()) == 1 + 8


@pytest.mark.parametrize('operation', OPERATIONS)
def test_images_of_any_size_pass(operation):
    x = torch.randn(1, 3, 75, 101)
    assert [tuple(y.shape[2:]) for y in build(operation).eval()(x)] == [(19, 26), (10, 13), (5, 7), (3, 4)]


@pytest.mark.parametrize('operation', OPERATIONS)
def test_a_dilated_stage_takes_the_weights_of_a_strided_one(operation):
    strided = build(operation).eval()
    dilated = build(operation, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)).eval()
    dilated.load_state_dict(strided.state_dict())
    with torch.no_grad():
        levels = [model(image(1, 128))[-1] for model in (strided, dilated)]
    assert [x.shape[-1] for x in levels] == [4, 8]


def test_a_small_stem_keeps_the_resolution():
    assert [x.shape[-1] for x in build(small_stem=True)(image(2, 16))] == [16, 8, 4, 2]


def test_an_operation_can_be_injected():
    model = build(lambda channels, stride, dilation, begins: (nn.AvgPool2d(3, stride, 1), None))
    assert sum(isinstance(m, nn.AvgPool2d) for m in model.modules()) == 8
    assert model(image(2, 64))[-1].shape == (2, 512, 2, 2)


@pytest.mark.parametrize('operation', OPERATIONS)
def test_gradients_with_inplace_abn_equal_those_with_abn(operation):
    found = []
    for kind in ('ABN', 'InPlaceABN'):
        model = build(operation, norm_cfg=dict(type=f'mmrev.{kind}', activation='leaky_relu')).double()
        assert {m.activation for m in model.modules() if isinstance(m, ABN)} == {'leaky_relu', 'identity'}
        assert not any(m.activation == 'identity' for name, m in model.named_modules()
                       if isinstance(m, ABN) and 'downsample' not in name)
        outputs = model(image(2, 64).double())
        loss_of(outputs).backward()
        found.append([*outputs, *(p.grad for p in model.parameters())])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8 * float(theirs.detach().abs().max() + 1))


def test_channels_last_computes_the_same():
    model = build('max').eval()
    with torch.no_grad():
        expected = model(image(2, 64))
        found = model.to(memory_format=torch.channels_last)(image(2, 64).contiguous(memory_format=torch.channels_last))
    for a, b in zip(found, expected):
        assert a.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_max_pooling_may_come_before_the_activation():
    """Values and gradients are those of the published order, to the bit."""
    found, published = [], lambda x, norm, pool: pool(norm(x).relu_())
    for order in (lambda x, norm, pool: conv_norm_act(x, nn.Identity(), norm, pool=pool), published):
        x = torch.randn(2, 8, 13, 13, generator=torch.Generator().manual_seed(0)).requires_grad_()
        y = order(x, nn.BatchNorm2d(8), MaxPool3x3(2))
        y.sin().sum().backward()
        found.append((y, x.grad))
    assert all(map(torch.equal, *found))


NORMS = dict(BN=dict(type='BN'), InPlaceABN=dict(type='mmrev.InPlaceABN', activation='leaky_relu'))


@pytest.mark.parametrize('norm', NORMS)
@pytest.mark.parametrize('name', ['layer2.1.bn1', 'layer2.1.pool2', 'maxpool', 'layer2.0.downsample'])
@pytest.mark.parametrize('train', [False, True])
def test_who_hooks_a_layer_sees_what_it_takes_and_gives(name, norm, train):
    model = build('max', norm_cfg=NORMS[norm]).train(train)
    seen, layer = [], model.get_submodule(name)
    with torch.set_grad_enabled(train):
        expected = model(image(2, 64))
        layer.register_forward_hook(lambda layer, inputs, output: seen.append([inputs[0], output]))
        layer.register_forward_hook(lambda layer, inputs, output: seen.append([inputs[0].clone(), output.clone()]))
        found = model(image(2, 64))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    (taken, given), (taken_then, given_then) = seen
    assert torch.equal(given, given_then)
    assert name.endswith('bn1') or torch.equal(taken, taken_then)  # InPlaceABN overwrites its input
    assert norm != 'BN' or 'pool' not in name or float(given.min()) >= 0  # a ReLU came before


@pytest.mark.parametrize('norm', NORMS)
def test_single_layers_may_be_checkpointed(norm):
    model, found = build('max', norm_cfg=NORMS[norm]), []
    for wrapped in (False, True):
        if wrapped:
            turn_on_activation_checkpointing(model, ['layer1.1.pool2', 'layer1.1.bn1', 'layer2.1.pool2'])
        model.zero_grad()
        sum(y.sin().sum() for y in model(image(2, 64))).backward()
        found.append([p.grad.clone() for p in model.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('mistake, message', [
    (dict(strides=(1, 2, 2)), 'a number for each of the 4 stages'),
    (dict(depth=34), '`depth` must be one of'), (dict(operation='min'), '`operation` must be one of'),
    (dict(out_indices=(4, )), '`out_indices`'), (dict(frozen_stages=5), '`frozen_stages`')])
def test_mistakes_are_named(mistake, message):
    with pytest.raises(ValueError, match=message):
        PFResNet(**mistake)


@pytest.mark.parametrize('operation', OPERATIONS)
def test_transforms_of_functions_see_operators_that_they_know(operation):
    model, x = build(operation, out_indices=(3, )).eval(), image(2, 64)

    def run(x):
        return model(x)[0]

    expected = run(x)
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(x)[0], expected)
    torch.testing.assert_close(torch.func.jvp(run, (x, ), (torch.ones_like(x), ))[0], expected)
    torch.testing.assert_close(torch.func.vmap(run)(x[None])[0], expected)
    through_func = torch.func.grad(lambda x: run(x).sum())(x)
    torch.testing.assert_close(through_func, torch.autograd.grad(run(x.requires_grad_()).sum(), x)[0])
