"""Published networks with InPlace-ABN: their names, their norms' weights, and the converter as a command."""
import importlib.util
from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.runner import load_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from mmrev.checkpoints import published
from mmrev.checkpoints.families.inplace_abn import convert_state_dict, fold_signs, to_batch_norm
from mmrev.problems import ProblemError
from mmrev.registry import MODELS
from support.golden import GoldenRecord

ROOT = Path(__file__).parents[2]
TOOL = ROOT / 'tools' / 'model_converters' / 'inplace_abn_to_mmrev.py'
NORM = 'mod2.block1.convs.bn1'


@pytest.fixture(scope='module')
def weights():
    """A whole ResNet-18 under the published names, saved without the counters as the published files are."""
    shapes = {'mod1.conv1.weight': (64, 3, 7, 7), **norm('mod1.bn1', 64), 'classifier.fc.weight': (10, 512),
              'classifier.fc.bias': (10, )}
    before = 64
    for stage in range(4):
        planes = 64 * 2**stage
        for block in range(2):
            prefix = f'mod{stage + 2}.block{block + 1}'
            for i, inputs in ((1, before), (2, planes)):
                shapes[f'{prefix}.convs.conv{i}.weight'] = (planes, inputs, 3, 3)
                shapes.update(norm(f'{prefix}.convs.bn{i}', planes))
            if before != planes:
                shapes[f'{prefix}.proj_conv.weight'] = (planes, before, 1, 1)
                shapes.update(norm(f'{prefix}.proj_bn', planes))
            before = planes
    generator = torch.Generator().manual_seed(0)
    made = {}
    for key, shape in shapes.items():
        x = torch.randn(shape, generator=generator)
        made[key] = x.abs() + 0.5 if 'running_var' in key else x / torch.Size(shape[1:]).numel()**0.5
    return made


def norm(name, channels) -> dict:
    return {f'{name}.{key}': (channels, ) for key in ('weight', 'bias', 'running_mean', 'running_var')}


def resnet18(norm_type, activation='leaky_relu'):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(dict(
            type='ImageClassifier',
            backbone=dict(type='mmrev.IABNResNet', depth=18, out_indices=(3, ),
                          norm_cfg=dict(type=f'mmrev.{norm_type}', activation=activation)),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=10, in_channels=512))).eval()


def scores(model):
    with torch.no_grad():
        return model(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)))


@pytest.fixture(scope='module')
def tool():
    """The command as a function of its arguments, without a process of its own."""
    spec = importlib.util.spec_from_file_location(TOOL.stem, TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *arguments: module.main([str(argument) for argument in arguments])


@pytest.fixture
def file(weights, tmp_path):
    """As the published training writes it."""
    path = tmp_path / 'best.pth.tar'
    torch.save(dict(epoch=90, arch='resnet18', best_prec1=70.,
                    state_dict={f'module.{key}': value for key, value in weights.items()}), path)
    return path


def published_as(monkeypatch, file, name):
    model = published.Model(name, 'c.py', (), None, None, 'http://x', published.md5_of(file))
    monkeypatch.setattr(published, 'models', lambda: (model, ))


@pytest.mark.parametrize('record, first, last', [
    ('iabn_resnet50', 'backbone.conv1.weight', 'backbone.layer4.2.bn3.weight'),
    ('iabn_wider_resnet16', 'backbone.stem.conv1.weight', 'backbone.norms.6.weight'),
    ('iabn_densenet121', 'backbone.stem.conv1.weight', 'backbone.norms.3.weight')])
def test_every_published_key_gets_a_name_of_its_own(record, first, last):
    shapes = GoldenRecord(record).shapes
    names = convert_state_dict({key: key for key in shapes})
    assert len(names) == len(shapes) and {first, last, 'head.fc.weight'} <= set(names)


def test_a_foreign_key_is_refused():
    with pytest.raises(KeyError, match="'mod2.foo' is not a key of a published network"):
        convert_state_dict({'mod2.block1.convs.bn1.weight': 0, 'mod2.foo': 0})


def test_a_published_file_is_known_by_its_md5_and_loads_strictly(tool, file, monkeypatch, capsys):
    published_as(monkeypatch, file, 'known-iabn_3rdparty_in1k')
    assert tool(file, file.with_name('out.pth')) == 0
    assert 'known-iabn_3rdparty_in1k, the published file' in capsys.readouterr().out
    model = resnet18('InPlaceABN')
    load_checkpoint(model, str(file.with_name('out.pth')), map_location='cpu', strict=True)
    meta = torch.load(file.with_name('out.pth'), weights_only=True)['meta']
    assert meta['converted_from_md5'] == published.md5_of(file) and meta['norm'] == 'inplace_abn'


def converted(tool, file, *options):
    out = file.with_name('out.pth')
    assert tool(file, out, '--any-hash', *options) == 0
    return torch.load(out, weights_only=True)['state_dict']


@pytest.mark.slow
def test_weights_move_between_kinds_of_norms_with_the_same_function(tool, file, weights):
    """Those of batch norm with negative weights into InPlace-ABN, and back."""
    assert (weights[f'{NORM}.weight'] < 0).any()
    plain, folded = resnet18('BatchNormAct'), resnet18('InPlaceABN')
    plain.load_state_dict(converted(tool, file, '--trained-with', 'batch_norm'))
    folded.load_state_dict(converted(tool, file, '--trained-with', 'batch_norm', '--for', 'inplace_abn'))
    expected = scores(plain)
    torch.testing.assert_close(scores(folded), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    absolute, signed = resnet18('ABN'), resnet18('BatchNormAct')
    absolute.load_state_dict(converted(tool, file))
    signed.load_state_dict(converted(tool, file, '--for', 'batch_norm'))
    torch.testing.assert_close(scores(signed), scores(absolute), rtol=1e-4, atol=1e-4)


def test_weights_move_from_relu_to_leaky_relu(tool, file):
    state = converted(tool, file)
    relu, leaky = resnet18('ABN', 'relu'), resnet18('InPlaceABN', 'leaky_relu')
    for model in (relu, leaky):
        model.load_state_dict(state)
    assert relu.state_dict().keys() == leaky.state_dict().keys() and not torch.equal(scores(relu), scores(leaky))


def test_signs_that_nothing_takes_are_named():
    shapes = GoldenRecord('iabn_wider_resnet16').shapes
    record = {key: torch.ones(shape) for key, shape in shapes.items() if key.startswith(('mod3.', 'bn_out.'))}
    for key in ('mod3.block1.bn1.weight', 'mod3.block1.convs.bn2.weight', 'bn_out.weight'):
        record[key][0] = -1.
    folded, left = fold_signs(record)
    assert left == ['mod3.block1.bn1', 'bn_out'] and folded['bn_out.weight'][0] == -1
    assert bool((folded['mod3.block1.convs.conv1.weight'][0] == -1).all())
    assert folded['mod3.block1.convs.bn2.running_mean'][0] == -1
    torch.testing.assert_close(to_batch_norm(folded)['mod3.block1.convs.bn2.weight'], torch.ones(256))


def test_a_network_of_sums_with_negative_weights_is_refused_for_inplace_abn(tool, tmp_path, monkeypatch, capsys):
    shapes = GoldenRecord('iabn_wider_resnet16').shapes
    record = {key: torch.ones(()).expand(shape) for key, shape in shapes.items()}  # one number in the file
    record['mod2.block1.bn1.weight'] = -record['mod2.block1.bn1.weight']
    torch.save(record, tmp_path / 'std.pth')
    published_as(monkeypatch, tmp_path / 'std.pth', 'resnext101-stdbn_3rdparty_in1k')
    assert tool(tmp_path / 'std.pth', tmp_path / 'out.pth', '--for', 'inplace_abn') == 2
    errors = capsys.readouterr().err
    assert 'negative weights' in errors and 'mod2.block1.bn1' in errors and 'mmrev.BatchNormAct' in errors
    assert tool(tmp_path / 'std.pth', tmp_path / 'out.pth') == 0
    assert tool(tmp_path / 'std.pth', tmp_path / 'out.pth', '--trained-with', 'inplace_abn') == 2
    assert 'was trained with batch_norm' in capsys.readouterr().err


@pytest.mark.parametrize('content, message', [
    ({'conv1.weight': torch.zeros(3)}, 'is not a checkpoint of a published network with InPlace-ABN: no weight'),
    (torch.zeros(3), 'no weight in it is named as published'),
    ({'state_dict': {'mod2.block1.bn1.weight': 3}}, 'is a int, not a tensor'),
    ({'state_dict': {'mod2.block1.bn1.weight': torch.zeros(3), 'mod9.x': torch.zeros(3)}}, "'mod9.x' is not a key"),
    ({'state_dict': {'backbone.conv1.weight': torch.zeros(3)}}, 'has names of OpenMMLab already'),
])
def test_what_is_no_such_checkpoint_is_refused(tool, tmp_path, content, message, capsys):
    torch.save(content, tmp_path / 'in.pth')
    assert tool(tmp_path / 'in.pth', tmp_path / 'out.pth', '--any-hash') == 2
    problem, remedy = capsys.readouterr().err.splitlines()
    assert message in problem and remedy.strip() and not (tmp_path / 'out.pth').exists()


def test_a_file_that_is_none_of_the_published_ones_is_refused(tool, file, capsys):
    assert tool(file, file.with_name('out.pth')) == 2
    errors = capsys.readouterr().err
    assert f'its md5 is {published.md5_of(file)}' in errors and '--any-hash' in errors
    file.write_bytes(file.read_bytes()[:1000])
    assert tool(file, file.with_name('out.pth')) == 2
    assert 'truncated' in capsys.readouterr().err


def test_weights_that_only_a_browser_can_fetch_are_refused_by_name():
    with pytest.raises(ProblemError, match='(?s)only be downloaded with a browser, from https://drive.google.com.*'
                       'mmrev convert'):
        CheckpointLoader.load_checkpoint('mmrev://resnet50-iabn-sync_3rdparty_in1k')
