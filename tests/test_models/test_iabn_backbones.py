"""The backbones with activated norms: against the published networks, and all that a host expects of a backbone."""
import pytest
import torch
from torch import Tensor, nn

from mmrev.checkpoints.families.inplace_abn import convert_state_dict
from mmrev.layers import ABN, InPlaceABN
from mmrev.models.backbones import IABNDenseNet, IABNResNet, IABNResNeXt, WiderResNet
from mmrev.registry import MODELS
from mmrev.testing import PeakMemory
from support.golden import GoldenRecord, assert_agrees
from support.images import image
from support.networks import loss_of

SMALL_RESNEXT = dict(type='mmrev.IABNResNeXt', depth=50, base_channels=(64, 64, 64))
SMALL = dict(
    resnet18=dict(type='mmrev.IABNResNet', depth=18),
    resnet50=dict(type='mmrev.IABNResNet', depth=50),
    resnext=SMALL_RESNEXT,
    wider=dict(type='mmrev.WiderResNet', depth=16, out_indices=(1, 2, 3, 5)),
    wider_a2=dict(type='mmrev.WiderResNet', depth=16, a2=True, out_indices=(1, 2, 3, 5)),
    densenet=dict(type='mmrev.IABNDenseNet', depth=121))


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    """WiderResNet of an eighth of its width; what is asked here does not depend on that, but the time does."""
    monkeypatch.setattr(WiderResNet, 'stage_channels',
                        tuple(tuple(c // 8 for c in stage) for stage in WiderResNet.stage_channels))


def build(name, **kwargs) -> nn.Module:
    torch.manual_seed(0)
    return MODELS.build({**SMALL[name], **kwargs})


class Classifier(nn.Module):
    """As the published networks end."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Module()
        self.head.fc = nn.Linear(backbone.channels[-1], 100)

    def forward(self, x: Tensor) -> Tensor:
        return self.head.fc(self.backbone(x)[-1].mean((2, 3)))


@pytest.mark.slow
@pytest.mark.parametrize('record, cfg', [
    ('iabn_resnet50', dict(type='mmrev.IABNResNet', depth=50)),
    ('iabn_wider_resnet16', dict(type='mmrev.WiderResNet', depth=16)),
    ('iabn_densenet121', dict(type='mmrev.IABNDenseNet', depth=121, deep_stem=False)),
    ('iabn_densenet121', dict(type='mmrev.IABNDenseNet', depth=121, deep_stem=False, memory_efficient=False)),
])
def test_golden_record(record, cfg, monkeypatch):
    monkeypatch.undo()
    assert_agrees(Classifier(MODELS.build(cfg)), GoldenRecord(record), convert_state_dict)


@pytest.mark.parametrize('kind, depth, number', [
    (IABNResNet, 18, 11176512), (IABNResNet, 34, 21284672), (IABNResNet, 50, 23508032), (IABNResNet, 101, 42500160),
    (IABNResNet, 152, 58143808), (IABNDenseNet, 161, 26472000), (IABNDenseNet, 169, 12484480),
    (IABNDenseNet, 201, 18092928)])
def test_number_of_parameters_is_that_of_the_plain_networks(kind, depth, number):
    """As torchvision has them; of DenseNet except for the norm after the 7x7 convolution, which is not there."""
    with torch.device('meta'):
        model = kind(depth) if kind is IABNResNet else kind(depth, deep_stem=False)
    stem_norm = 0 if kind is IABNResNet else 2 * (96 if depth == 161 else 64)
    assert sum(p.numel() for p in model.parameters()) == number - stem_norm


@pytest.mark.parametrize('kind, depth', [(IABNResNeXt, 50), (IABNResNeXt, 101), (IABNResNeXt, 152), (WiderResNet, 20),
                                         (WiderResNet, 38)])
def test_the_depth_counts_the_layers_with_weights(kind, depth):
    """Without projections; with the classifier, and of the stem one convolution."""
    with torch.device('meta'):
        model = kind(depth) if kind is WiderResNet else kind(depth, deep_stem=False)
    convs = [name for name, m in model.named_modules() if isinstance(m, nn.Conv2d) and 'projection' not in name]
    assert len(convs) + 1 == depth


def test_dilated_stages_keep_the_stride():
    model = build('wider_a2', dilated=True, out_indices=(2, 3, 4, 5))
    assert {x.shape[2:] for x in model(image(2, 64))} == {(8, 8)}
    assert {m.p for m in model.modules() if isinstance(m, nn.Dropout2d)} == {0.3, 0.5}
    model = build('resnext', strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4))
    assert [x.shape[2] for x in model(image(2, 64))] == [16, 8, 8, 8]
    model = build('resnet18', strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4))
    assert [x.shape[2] for x in model(image(2, 64))] == [16, 8, 8, 8]


@pytest.mark.parametrize('name', ['resnext', 'wider_a2', 'densenet'])
def test_levels_are_activated(name):
    for level in build(name)(image(2, 64)):
        assert 0 < level.min().abs() < level.max() / 10


@pytest.mark.slow
@pytest.mark.parametrize('norm_eval', [False, True])
@pytest.mark.parametrize('name', [name for name in SMALL if name != 'wider_a2'])
def test_gradients_with_inplace_abn_equal_those_with_abn(name, norm_eval):
    expected = None
    for kind in ('ABN', 'InPlaceABN', 'InPlaceABNSync'):
        model = build(name, norm_cfg=dict(type=f'mmrev.{kind}'), norm_eval=norm_eval).double().train()
        outputs = model(image(2, 64, dtype=torch.float64))
        loss_of(outputs).backward()
        found = [*outputs, *(p.grad for p in model.parameters())]
        if expected is None:
            expected = found
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9 * float(theirs.detach().abs().max() + 1))


@pytest.mark.parametrize('kind', ['ABN', 'BatchNormAct', 'InPlaceABN', 'InPlaceABNSync'])
def test_every_norm_takes_its_activation_from_the_config(kind):
    norm = dict(type=f'mmrev.{kind}', activation='elu', activation_param=0.5, momentum=0.2)
    model = build('resnet18', norm_cfg=norm)
    activations = [(m.activation, m.activation_param) for m in model.modules() if type(m).__name__ == kind]
    assert activations.count(('identity', 0.5)) == 3 and activations.count(('elu', 0.5)) == 17
    assert len(activations) == 20


def test_initialisation_is_as_published():
    model = build('resnet18', init_cfg=None)
    model.init_weights()
    weight = model.layer3[0].conv2.weight
    assert weight.std().item() == pytest.approx((2 / 1.0001 * 2 / (2 * 256 * 9))**0.5, rel=0.01)
    assert all(bool((m.weight == 1).all() and (m.bias == 0).all()) for m in model.modules() if isinstance(m, ABN))


def kept_per_image(build_model) -> int:
    """Bytes that a model keeps for backward, outputs included; what does not depend on the batch cancels."""
    model, sizes = build_model(), []
    for batch in (2, 3):
        with PeakMemory() as memory:
            outputs = model(image(batch, 32))
            sizes.append(memory.current)
            del outputs
    return sizes[1] - sizes[0]


@pytest.mark.parametrize('memory_efficient', [True, False])
def test_memory_of_a_densenet_is_linear_in_depth(memory_efficient, monkeypatch):

    def kept(num_layers):
        monkeypatch.setitem(IABNDenseNet.arch_zoo, 0, (8, (num_layers, )))
        return kept_per_image(lambda: IABNDenseNet(0, out_indices=(0, ), memory_efficient=memory_efficient))

    first, second = kept(16) - kept(4), kept(28) - kept(16)
    assert (second == first) if memory_efficient else (second > 1.5 * first)


def test_inplace_abn_keeps_about_half_of_what_abn_keeps():
    kept = {kind: kept_per_image(lambda: build('resnext', norm_cfg=dict(type=f'mmrev.{kind}')))
            for kind in ('ABN', 'InPlaceABN')}
    assert kept['InPlaceABN'] < 0.6 * kept['ABN']


@pytest.mark.parametrize('change, message', [
    (dict(depth=20), '`depth` must be one of .*got 20'),
    (dict(out_indices=(4, )), r'`out_indices` must lie in \[-4, 4\), got \(4,\)'),
    (dict(out_indices=(1, 0)), '`out_indices` must ascend'),
    (dict(frozen_stages=5), r'`frozen_stages` must lie in \[-1, 4\], got 5'),
    (dict(norm_cfg=dict(type='BN')), '`norm_cfg` must name a norm that holds its activation.*mmrev.BatchNormAct'),
    (dict(norm_cfg=dict(type='mmrev.InPlaceABN', activation='gelu')), '`activation` must be one of'),
])
def test_bad_arguments_are_named(change, message):
    for kind in (IABNResNet, IABNResNeXt, IABNDenseNet):
        with pytest.raises(ValueError, match=message):
            kind(**{'depth': 121 if kind is IABNDenseNet else 50, **change})


def test_dilation_is_of_the_a2_variant():
    with pytest.raises(ValueError, match='give `a2=True` as well'):
        WiderResNet(16, dilated=True)


def test_the_default_norm_is_inplace_abn_with_the_published_slope():
    norms = {(type(m), m.activation, m.activation_param) for m in build('resnext').modules() if isinstance(m, ABN)}
    assert norms == {(InPlaceABN, 'leaky_relu', 0.01)}
