"""The converter of published checkpoints with parameter-free layers: what it takes, makes and refuses."""
import importlib.util
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmpretrain')
from mmengine.config import Config  # noqa: E402
from mmengine.registry import MODELS, DefaultScope  # noqa: E402
from mmengine.runner import load_checkpoint  # noqa: E402

from mmrev.checkpoints.families.parameter_free import convert_state_dict, is_published_name  # noqa: E402
from support.golden import GoldenRecord  # noqa: E402

ROOT = Path(__file__).parents[2]
CONFIGS = dict(pf_resnet50_max='pf-resnet50-max', pf_resnet50_hybrid='pf-resnet50-hybrid', pf_vit_s_max='pf-vit-s-max',
               pf_pit_s_max='pit-s-max')


@pytest.fixture(scope='module')
def tool():
    """The command as a function of its arguments, without a process of its own."""
    path = ROOT / 'tools/model_converters/pflayer_to_mmrev.py'
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *arguments: module.main([str(argument) for argument in arguments])


def published(record):
    """A state dict of the right shapes; with zeros, for time."""
    return {key: torch.zeros(shape) for key, shape in GoldenRecord(record).shapes.items()}


@pytest.mark.parametrize('record', CONFIGS)
def test_a_published_checkpoint_loads_strictly_into_its_config(record, tool, tmp_path, capsys):
    torch.save(dict(state_dict={f'module.{key}': value for key, value in published(record).items()}), tmp_path / 'src')
    assert tool(tmp_path / 'src', tmp_path / 'dst') == 0
    assert capsys.readouterr().err == ''
    cfg = Config.fromfile(ROOT / f'configs/parameter_free/{CONFIGS[record]}_4xb256_in1k.py')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg.model)
    load_checkpoint(model, str(tmp_path / 'dst'), map_location='cpu', strict=True)
    assert not model.head.fc.weight.any()


def test_resnets_with_convolutions_are_converted_too():
    keys = ['layer1.0.conv_block.0.weight', 'layer1.0.conv_block.1.running_mean', 'layer3.0.downsample.0.weight']
    names = [key.removeprefix('backbone.') for key in convert_state_dict(dict.fromkeys(keys))]
    assert names == ['layer1.0.conv2.weight', 'layer1.0.bn2.running_mean', 'layer3.0.downsample.0.weight']
    assert is_published_name(keys[0]) and not is_published_name('layer1.0.conv2.weight')


@pytest.mark.parametrize('record, left_out, message', [
    ('pf_resnet50_hybrid', 'layer3.', 'numbers of blocks, which no such network has'),
    ('pf_resnet50_max', 'layer2.1.reduction_block.0.weight', '`backbone.layer2.1.conv1.weight` is missing'),
    ('pf_resnet50_max', 'layer4.0.downsample', '`backbone.layer4.0.downsample.0.weight` is missing'),
    ('pf_resnet50_max', 'conv1.1.running_var', '`backbone.bn1.running_var` is missing'),
    ('pf_vit_s_max', 'blocks.11.', 'numbers of blocks'),
    ('pf_vit_s_max', 'pos_embed', '`backbone.pos_embed` is missing'),
    ('pf_pit_s_max', 'transformers.1.blocks.3.mlp.fc2.bias', '`backbone.stages.1.3.mlp.fc2.bias` is missing')])
def test_what_is_incomplete_is_refused(record, left_out, message, tool, tmp_path, capsys):
    weights = {key: value for key, value in published(record).items() if not key.startswith(left_out)}
    torch.save(weights, tmp_path / 'src')
    assert tool(tmp_path / 'src', tmp_path / 'dst') == 2
    assert message in capsys.readouterr().err and not (tmp_path / 'dst').exists()


@pytest.mark.parametrize('content, message', [
    ({'backbone.conv1.weight': torch.zeros(1)}, 'has names of OpenMMLab already'),
    ({'conv1.weight': torch.zeros(1)}, 'no weight in it is named as published'),
    ({'layer1.0.reduction_block.0.weight': 1}, 'is a int, not a tensor'),
    ({'layer1.0.reduction_block.0.weight': torch.zeros(1), 'surplus': torch.zeros(1)}, "'surplus' is not a key")])
def test_what_is_no_such_checkpoint_is_refused_in_two_lines(content, message, tool, tmp_path, capsys):
    torch.save(content, tmp_path / 'src')
    assert tool(tmp_path / 'src', tmp_path / 'dst') == 2
    problem, remedy = capsys.readouterr().err.splitlines()
    assert message in problem and remedy.strip() and not (tmp_path / 'dst').exists()
