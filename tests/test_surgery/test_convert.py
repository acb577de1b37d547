"""Models with batch norms become InPlace-ABN with the same function, and come back."""
import copy
import pickle

import mmpretrain.models  # noqa: F401
import pytest
import torch
import torch.nn.utils.prune
import torchvision
from mmcv.cnn import ConvModule
from mmdet.registry import MODELS as DET
from mmdet.utils import register_all_modules
from mmpretrain.registry import MODELS as PRETRAIN
from torch import nn

from mmrev.layers import ABN, InPlaceABN, InPlaceABNSync
from mmrev.layers.inplace_abn import BatchNormAct
from mmrev.surgery import convert_batchnorm, to_batchnorm
from mmrev.testing import PeakMemory

register_all_modules(init_default_scope=False)


def filled(model):
    """Random statistics, and weights of both signs."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for m in model.modules():
            if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.affine:
                m.weight.normal_(1, 0.7, generator=generator)
                m.bias.normal_(generator=generator)
                m.running_mean.normal_(generator=generator)
                m.running_var.uniform_(0.5, 2, generator=generator)
    return model


def images(size=64, batch=2):
    return torch.randn(batch, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def run(model, x):
    """Outputs, and gradients by name."""
    model.zero_grad()
    outputs = model(x)
    outputs = outputs if isinstance(outputs, (tuple, list)) else (outputs, )
    sum((z * z.detach().cos()).sum() for z in outputs).backward()
    return [z.detach() for z in outputs], {k: p.grad for k, p in model.named_parameters() if p.grad is not None}


def assert_same_function(model, reference, x, folded=True):
    """Outputs are equal; gradients too, except for the signs that are folded."""
    outputs, gradients = run(model, x)
    expected_outputs, expected = run(reference, x)
    for ours, theirs in zip(outputs, expected_outputs):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    assert gradients.keys() == expected.keys()
    for name, g in expected.items():
        ours, theirs = (gradients[name].abs(), g.abs()) if folded else (gradients[name], g)
        assert (ours - theirs).norm() <= 1e-8 * max(theirs.norm(), 1e-3), name  # a bias before a norm has none


def mmdet_resnet(**kwargs):
    return DET.build(dict(type='mmdet.ResNet', **{'depth': 50, 'base_channels': 8, 'norm_eval': True, **kwargs}))


def mmdet_resnet18():
    return mmdet_resnet(depth=18)


BN = dict(norm_cfg=dict(type='BN', requires_grad=True))
FROZEN = {
    'mmdet': mmdet_resnet,
    'frozen_stages': lambda: mmdet_resnet(frozen_stages=1),
    'basic': mmdet_resnet18,
    'with_cp': lambda: mmdet_resnet(with_cp=True),
    'caffe': lambda: mmdet_resnet(style='caffe'),
    'plugins': lambda: mmdet_resnet(plugins=[
        dict(cfg=dict(type='ContextBlock', ratio=1 / 4), stages=(False, True, False, False), position='after_conv2'),
        dict(cfg=dict(type='ContextBlock', ratio=1 / 4), stages=(False, False, True, False), position='after_conv3')]),
    'v1d': lambda: DET.build(dict(type='mmdet.ResNetV1d', depth=50, base_channels=8, norm_eval=True)),
    'resnext': lambda: DET.build(dict(type='mmdet.ResNeXt', depth=50, groups=4, base_width=4, norm_eval=True)),
    'mmpretrain': lambda: PRETRAIN.build(dict(type='mmpretrain.ResNet', depth=50, base_channels=8, norm_eval=True,
                                              out_indices=(0, 3))),
    'SE-ResNet': lambda: PRETRAIN.build(dict(type='mmpretrain.SEResNet', depth=50, base_channels=8, norm_eval=True)),
    'ResNeSt': lambda: DET.build(dict(type='mmdet.ResNeSt', depth=50, base_channels=8, norm_eval=True, **BN)),
    "mmpretrain's ResNeSt": lambda: PRETRAIN.build(dict(
        type='mmpretrain.ResNeSt', depth=50, base_channels=8, norm_eval=True)),
    'Res2Net': lambda: DET.build(dict(
        type='mmdet.Res2Net', depth=50, scales=4, base_width=8, base_channels=16, norm_eval=True)),
    "mmpretrain's Res2Net": lambda: PRETRAIN.build(dict(
        type='mmpretrain.Res2Net', depth=50, scales=3, base_width=16, base_channels=16, norm_eval=True)),
    'ShuffleNetV2': lambda: PRETRAIN.build(dict(type='mmpretrain.ShuffleNetV2', widen_factor=0.5, norm_eval=True)),
}


@pytest.mark.parametrize('name', FROZEN)
def test_frozen_statistics(name):
    torch.manual_seed(0)
    model = filled(FROZEN[name]()).double()
    model.train()
    reference = copy.deepcopy(model)
    report = convert_batchnorm(model)
    assert not report.kept and not report.changed and report.folded
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert list(dict(model.named_parameters())) == list(dict(reference.named_parameters()))
    assert_same_function(model, reference, images())
    back = to_batchnorm(model)
    assert back.state_dict().keys() == reference.state_dict().keys()
    assert [type(m) for m in back.modules()] == [type(m) for m in reference.modules()]
    assert_same_function(back, reference, images())


def test_norms_before_the_shuffle_of_shufflenet():
    torch.manual_seed(0)
    model = filled(PRETRAIN.build(dict(type='mmpretrain.ShuffleNetV1', widen_factor=0.5, norm_eval=True))).double()
    model.train()
    reference = copy.deepcopy(model)
    report = convert_batchnorm(model)
    assert len(report.converted) == 33 and all('g_conv_1x1_expand' in name for name in report.kept)
    assert_same_function(model, reference, images())


def test_batch_statistics_become_leaky_only_when_asked():
    model = filled(PRETRAIN.build(dict(type='mmpretrain.ResNet', depth=50, base_channels=8))).double()
    assert len(convert_batchnorm(copy.deepcopy(model)).converted) == 0
    leaky = copy.deepcopy(model)
    for m in leaky.modules():
        for name, child in m._modules.items():
            if isinstance(child, nn.ReLU):
                m._modules[name] = nn.LeakyReLU(0.01, inplace=True)
    report = convert_batchnorm(model, relu='leaky')
    assert not report.kept and len(report.changed) == 49
    assert 'another function' in str(report)
    assert_same_function(model, leaky, images())
    assert_same_function(to_batchnorm(model), leaky, images())


def test_norms_before_the_convolutions_of_densenet():
    torch.manual_seed(0)
    arch = dict(growth_rate=4, depths=[2, 2], init_channels=8)
    model = filled(PRETRAIN.build(dict(type='mmpretrain.DenseNet', arch=arch, act_cfg=dict(type='LeakyReLU')))).double()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.weight.data.abs_()  # no convolution stands before the norm of a concatenation
    reference = copy.deepcopy(model)
    report = convert_batchnorm(model)
    assert len(report.converted) == 11 and not report.kept
    assert_same_function(model, reference, images())
    back = to_batchnorm(model)
    assert [type(m) for m in back.modules()] == [type(m) for m in reference.modules()]
    assert_same_function(back, reference, images())


def test_drop_path_stands_between_norm_and_shortcut():
    model = filled(PRETRAIN.build(dict(type='mmpretrain.ResNet', depth=18, base_channels=8, drop_path_rate=0.5,
                                       norm_eval=True))).double()
    model.train()
    reference = copy.deepcopy(model)
    assert not convert_batchnorm(model).kept
    assert model.layer2[1].norm2.activation == 'identity'
    for m in (model, reference):
        m.forward = seeded(m.forward)
    assert_same_function(model, reference, images())


def seeded(function):

    def run(*args):
        torch.manual_seed(0)
        return function(*args)

    return run


def test_torchvision_and_optimizer():
    model = filled(torchvision.models.resnet18(width_per_group=64)).double().eval()
    x = images()
    expected = model(x)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    report = convert_batchnorm(model, relu='leaky', slope=1e-30)
    assert not report.kept
    torch.testing.assert_close(model(x), expected)
    model.train()(x).sum().backward()
    before = [p.clone() for p in model.parameters()]
    optimizer.step()
    assert all(not torch.equal(b, p) for b, p in zip(before, model.parameters()))


def test_sequential_conv_module_and_linear():
    torch.manual_seed(0)
    model = filled(nn.Sequential(
        ConvModule(3, 8, 3, norm_cfg=dict(type='BN'), act_cfg=dict(type='LeakyReLU', negative_slope=0.2)),
        ConvModule(8, 8, 3, norm_cfg=dict(type='BN'), act_cfg=None),
        nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8, eps=1e-3, momentum=None), nn.ELU(),
        nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.SiLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4), nn.BatchNorm1d(4), nn.LeakyReLU())).double()
    reference = copy.deepcopy(model)
    x = images(16, batch=4)
    report = convert_batchnorm(model)
    assert set(report.converted) == {'0.bn', '1.bn', '3', '6', '13'} and 'SiLU' in report.kept['8']
    alone = convert_batchnorm(copy.deepcopy(reference[1:2]))
    assert 'might change its output' in alone.kept['1.bn']
    assert_same_function(model, reference, x)
    assert type(model[0].bn) is InPlaceABN and model[0].bn.activation_param == 0.2
    to_batchnorm(model)
    assert [type(m) for m in model.modules()] == [type(m) for m in reference.modules()]
    assert_same_function(model, reference, x)


@pytest.mark.parametrize('groups', [1, 2])
@pytest.mark.parametrize('wrapped', [True, False])
def test_signs_are_folded_into_transposed_convolutions(wrapped, groups):
    torch.manual_seed(0)
    cfg, act_cfg = dict(groups=groups, stride=2, padding=1), dict(type='LeakyReLU')
    if wrapped:
        model = nn.Sequential(ConvModule(8, 8, 4, conv_cfg=dict(type='deconv'), norm_cfg=dict(type='BN'),
                                         act_cfg=act_cfg, **cfg), nn.Conv2d(8, 3, 1))
    else:
        model = nn.Sequential(nn.ConvTranspose2d(8, 4, 4, **cfg), nn.BatchNorm2d(4), nn.LeakyReLU())
    model = filled(model).double().eval()
    reference = copy.deepcopy(model)
    report = convert_batchnorm(model)
    assert not report.kept and report.folded
    x = torch.randn(2, 8, 5, 5, dtype=torch.float64)
    assert_same_function(model, reference, x)
    assert_same_function(to_batchnorm(model), reference, x)


@pytest.mark.parametrize('kind', ['DCN', 'DCNv2'])
def test_signs_are_folded_into_deformable_convolutions(kind):
    torch.manual_seed(0)
    model = filled(ConvModule(3, 4, 3, conv_cfg=dict(type=kind), norm_cfg=dict(type='BN'),
                              act_cfg=dict(type='LeakyReLU'))).eval()
    x = images(16).float()
    expected = model(x)
    assert convert_batchnorm(model).folded
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


def test_signs_that_cannot_be_folded_are_named():
    conv = nn.Conv2d(3, 4, 1)
    shared = nn.Sequential(nn.Sequential(conv, nn.BatchNorm2d(4), nn.LeakyReLU()),
                           nn.Sequential(conv, nn.BatchNorm2d(4), nn.LeakyReLU()),
                           nn.Sequential(nn.BatchNorm2d(4), nn.LeakyReLU()))
    with torch.no_grad():
        shared[0][1].weight[2] = -1
        shared[2][0].weight[1:3] = -1
        shared[1][1].weight[3] = 1e-6
    report = convert_batchnorm(shared)
    assert list(report.converted) == ['1.1'] and report.small == {'1.1': [3]}
    assert 'channel 2' in report.kept['0.1'] and 'other consumers' in report.kept['0.1']
    assert 'channels 1, 2' in report.kept['2.0'] and 'no convolution' in report.kept['2.0']
    for words in ('channel 3', 'other consumers', '1 batch norms'):
        assert words in str(report)


def test_one_obstacle_leaves_its_block_alone():
    model = mmdet_resnet(depth=18)
    model.train()
    with torch.no_grad():
        model.layer1[0].norm1.weight[0] = -1
    model.layer1[0].conv1.register_forward_hook(lambda *_: None)
    report = convert_batchnorm(model)
    assert set(report.kept) == {'layer1.0.bn1', 'layer1.0.bn2'}
    assert 'layer1.0.bn1' in report.kept['layer1.0.bn2']
    assert type(model.layer1[0]).__name__ == 'BasicBlock'


def test_unknown_modules_are_listed():
    report = convert_batchnorm(PRETRAIN.build(dict(type='mmpretrain.RepVGG', arch='A0', norm_eval=True)))
    assert 'unknown' in report.kept['stage_1.1.branch_norm']


def test_blocks_with_another_way_through_their_norms_are_left_alone():
    """DetectoRS runs its blocks by ``rfp_forward`` as well."""
    torch.manual_seed(0)
    model = filled(DET.build(dict(type='mmdet.DetectoRS_ResNet', depth=50, base_channels=8, norm_eval=True,
                                  rfp_inplanes=16, output_img=True))).double()
    model.train()
    features = [None, *[torch.randn(2, 16, size, size, dtype=torch.float64) for size in (8, 4, 2)]]
    expected = model.rfp_forward(images(), features)
    report = convert_batchnorm(model)
    assert 'Bottleneck.rfp_forward' in report.kept['layer1.0.bn1'] and 'rfp_forward' in str(report)
    for ours, theirs in zip(model.rfp_forward(images(), features), expected):
        torch.testing.assert_close(ours, theirs)


class OwnStem(torchvision.models.ResNet):
    """Overrides what torchvision's forward calls."""

    def _forward_impl(self, x):
        return self.relu(self.bn1(self.conv1(x)) + 1)


def test_a_known_forward_that_runs_through_overridden_methods_is_left_alone():
    model = filled(OwnStem(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])).eval()
    expected = model(images().float())
    report = convert_batchnorm(model, relu='leaky', slope=1e-30)
    assert 'OwnStem._forward_impl' in report.kept['bn1'] and 'layer1.0.bn1' in report.converted
    torch.testing.assert_close(model(images().float()), expected)


def test_sync_batchnorm_becomes_sync():
    model = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4),
                                                                  nn.LeakyReLU()), process_group='some')
    convert_batchnorm(model)
    assert type(model[1]) is InPlaceABNSync and model[1].group == 'some'
    to_batchnorm(model)
    assert type(model[1]) is nn.SyncBatchNorm and model[1].process_group == 'some'


def test_synchronised_norms_of_a_config_become_sync():
    model = filled(mmdet_resnet(norm_cfg=dict(type='SyncBN'))).double()
    model.train()
    reference = copy.deepcopy(model)
    assert not convert_batchnorm(model).kept
    assert type(model.layer1[0].norm1) is InPlaceABNSync
    assert_same_function(model, reference, images())
    back = to_batchnorm(model)
    assert [type(m) for m in back.modules()] == [type(m) for m in reference.modules()]
    assert_same_function(back, reference, images())


def test_hooks_training_flags_and_copies():
    model = filled(mmdet_resnet()).double()
    model.train()
    seen = []
    model.layer2[0].norm2.register_forward_hook(lambda *_: seen.append(1))
    convert_batchnorm(model)
    assert model.training and not model.layer2[0].norm2.statistics.training
    expected = model(images())
    assert seen
    model.layer2[0].norm2._forward_hooks.clear()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        for ours, theirs in zip(other(images()), expected):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize('batch_statistics', [True, False])
def test_memory_of_resnet50(batch_statistics):
    """The bounds of the paper's idea, last norms of blocks included; byte for byte, on the meta device."""
    reference = PRETRAIN.build(dict(type='mmpretrain.ResNet', depth=50, norm_eval=not batch_statistics))
    reference.train()
    model = copy.deepcopy(reference)
    assert not convert_batchnorm(model, relu='leaky' if batch_statistics else None).kept
    (kept, peak), (kept_before, peak_before) = per_image(model), per_image(reference)
    assert kept <= 0.60 * kept_before
    assert peak <= 0.66 * peak_before


def per_image(model):
    small, large = measure(model, 32), measure(model, 64)
    return [(b - a) / 32 for a, b in zip(small, large)]


def measure(model, batch):
    model.to('meta')
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    with PeakMemory() as memory:
        z = model(torch.randn(batch, 3, 224, 224, device='meta'))[-1]
        kept = memory.current
        z.sum().backward()
    return kept, memory.peak


class Scripted(nn.Module):

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.LeakyReLU(), nn.Conv2d(8, 8, 3),
                                  InPlaceABN(8, activation='elu'))

    def forward(self, x):
        return self.body(x)


@pytest.mark.slow
@pytest.mark.parametrize('make', [Scripted, mmdet_resnet18, torchvision.models.resnet18])
def test_exports(make, tmp_path):
    import onnxruntime

    torch.manual_seed(0)
    model = filled(make())
    model.eval()
    convert_batchnorm(model, relu='leaky')
    x = images(32).float()
    expected = first(model(x))
    assert any(isinstance(m, ABN) for m in model.modules())
    model = to_batchnorm(model)
    assert not any(isinstance(m, ABN) for m in model.modules())
    torch.testing.assert_close(first(model(x)), expected, rtol=1e-4, atol=1e-4)

    torch.testing.assert_close(first(torch.export.export(model, (x, )).module()(x)), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(first(torch.jit.trace(model, x)(x)), expected, rtol=1e-4, atol=1e-4)
    if make is not mmdet_resnet18:  # whose modules cannot be scripted
        torch.testing.assert_close(first(torch.jit.script(model)(x)), expected, rtol=1e-4, atol=1e-4)
    torch.onnx.export(model, (x, ), str(tmp_path / 'model.onnx'), dynamo=False)
    session = onnxruntime.InferenceSession(str(tmp_path / 'model.onnx'))
    outputs = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(outputs[0]), expected, rtol=1e-3, atol=1e-3)


def first(outputs):
    return outputs[0] if isinstance(outputs, (tuple, list)) else outputs


def test_a_layer_of_its_own_comes_back_with_its_activation():
    layer = InPlaceABN(4, activation='elu').eval()
    x, shortcut = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    expected = layer(x, residual=shortcut)
    back = to_batchnorm(layer)
    assert isinstance(back, BatchNormAct)
    torch.testing.assert_close(back(x, shortcut), expected)


class Simplified(nn.BatchNorm2d):
    """With a constructor of its own."""

    def __init__(self, channels):
        super().__init__(channels, eps=1e-3)


def test_a_norm_with_a_constructor_of_its_own_comes_back():
    model = filled(nn.Sequential(nn.Conv2d(3, 4, 1), Simplified(4), nn.LeakyReLU())).double().eval()
    reference = copy.deepcopy(model)
    assert not convert_batchnorm(model).kept
    back = to_batchnorm(model)
    assert type(back[1]) is Simplified and back[1].eps == 1e-3
    assert_same_function(back, reference, images(8))


def test_scripting_says_what_to_do():
    with pytest.raises(TypeError, match='InPlaceABN cannot be scripted.*to_batchnorm'):
        torch.jit.script(Scripted())


def test_a_conv_module_after_an_activation_overwrites_nothing():
    following = ConvModule(4, 4, 1, norm_cfg=dict(type='BN'), act_cfg=dict(type='LeakyReLU'))
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.LeakyReLU(), following)
    assert set(convert_batchnorm(model).converted) == {'1', '3.bn'}


class SquaredWeight(nn.Conv2d):
    """Overrides what ``nn.Conv2d.forward`` calls."""

    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight**2, bias)


def unfoldable():
    """What cannot be converted, by what the report says."""
    tied = nn.Sequential(*[nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.LeakyReLU(), nn.Conv2d(3, 3, 1))
                           for _ in range(2)])
    tied[1][1].weight, tied[1][1].bias = tied[0][1].weight, tied[0][1].bias
    linear = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.LeakyReLU(), nn.Linear(5, 5))
    standardised = ConvModule(3, 8, 1, conv_cfg=dict(type='ConvAWS'), norm_cfg=dict(type='BN'),
                              act_cfg=dict(type='LeakyReLU'))
    hooked = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.LeakyReLU())
    hooked[2].register_forward_hook(lambda *_: None)
    pruned = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.LeakyReLU())
    torch.nn.utils.prune.l1_unstructured(pruned[1], 'weight', 0.3)
    squared = nn.Sequential(SquaredWeight(3, 3, 1), nn.BatchNorm2d(3), nn.LeakyReLU())

    def followed(*after):
        return nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), *after, nn.Conv2d(3, 3, 1))

    return {'several places': tied, 'no convolution': linear, 'directly precedes': standardised, 'hooks': hooked,
            'directly precedes it': squared, 'pruned': pruned,
            'an unknown module follows it': followed(nn.Identity())[:3],
            'overwrites its output': nn.Sequential(nn.Sequential(followed(nn.LeakyReLU(0.1))[:3], nn.Identity()),
                                                   nn.Sequential(nn.ReLU(inplace=True))),
            'after its activation': nn.Sequential(ConvModule(3, 3, 1, norm_cfg=dict(type='BN'), inplace=False,
                                                             act_cfg=dict(type='LeakyReLU')), nn.ReLU(inplace=True)),
            'in place': followed(nn.Identity(), nn.ReLU(inplace=True)),
            'overwrites its output in place': followed(nn.LeakyReLU(0.1), nn.Dropout(inplace=True))}


@pytest.mark.parametrize('reason', unfoldable())
def test_is_left_alone(reason):
    model = unfoldable()[reason]
    with torch.no_grad():
        for m in model.modules():
            if isinstance(m, nn.modules.batchnorm._BatchNorm) and 'weight' in m._parameters:
                m.weight[0] = -1
    before = {name: t.clone() for name, t in model.state_dict().items()}
    report = convert_batchnorm(model)
    assert not report.converted and report.kept
    assert all(reason in why for why in report.kept.values()), report.kept
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_batch_norms_that_mmengine_made_of_synchronised_ones():
    from mmengine.model import revert_sync_batchnorm
    model = filled(PRETRAIN.build(dict(type='mmpretrain.ResNet', depth=18, base_channels=8, norm_eval=True,
                                       norm_cfg=dict(type='SyncBN')))).double()
    model = revert_sync_batchnorm(model)
    for m in model.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.running_mean.normal_(generator=torch.Generator().manual_seed(1))
    model.train()
    reference = copy.deepcopy(model)
    report = convert_batchnorm(model)
    assert not report.kept and len(report.converted) == 21
    assert_same_function(model, reference, images())


def test_conversions_are_found_where_they_lay_until_0_2():
    from mmrev import layers
    assert layers.convert_batchnorm is convert_batchnorm and layers.to_batchnorm is to_batchnorm
