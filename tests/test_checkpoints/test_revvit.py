"""Checkpoints of PySlowFast, mmpretrain and minREV as mmrev's networks load them."""
import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from mmrev.checkpoints.conversion import convert
from mmrev.checkpoints.families import minrev, revvit
from mmrev.checkpoints.family import Request
from mmrev.models.backbones import RevViT
from support.golden import GoldenRecord

TOOL = Path(__file__).parents[2] / 'tools' / 'model_converters' / 'revvit_to_mmrev.py'
ARCH = dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=16)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = nn.ModuleDict(dict(backbone=RevViT(ARCH, 32, 16), head=nn.ModuleDict(dict(fc=nn.Linear(16, 3)))))
    for p in model.parameters():
        nn.init.normal_(p)
    return model.state_dict()


def as_slowfast(ours):
    """The names of PySlowFast, where queries, keys and values are apart."""
    published = {}
    for key, value in ours.items():
        for mine, theirs in (('backbone.layers.couplings.1.after.level.f.norm', 'norm'),
                             ('backbone.layers.couplings.', 'rev_backbone.layers.'), ('.f.norm', '.F.norm'),
                             ('.f.layer', '.F.attn'), ('.g.norm', '.G.norm'), ('.g.layer', '.G.mlp'),
                             ('patch_embed.projection', 'patch_embed.proj'), ('head.fc', 'head.projection'),
                             ('backbone.', '')):
            key = key.replace(mine, theirs) if mine != 'backbone.' or key.startswith(mine) else key
        if '.qkv.' in key:
            published.update({key.replace('.qkv.', f'.{n}.'): part for n, part in zip('qkv', value.chunk(3))})
        else:
            published[key] = value
    return published


def as_mmpretrain(ours):
    published = {}
    for key, value in ours.items():
        for mine, theirs in (('layers.couplings.1.after.level.f.norm', 'ln1'), ('.couplings.', '.'),
                             ('.f.norm', '.ln1'), ('.f.layer', '.attn'), ('.g.norm', '.ln2'),
                             ('.g.layer.fc1', '.ffn.layers.0.0'), ('.g.layer.fc2', '.ffn.layers.1')):
            key = key.replace(mine, theirs)
        published[key] = value
    return published


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize('names', [as_slowfast, as_mmpretrain])
def test_published_names_become_ours(names, model):
    published = names(model)
    assert not set(published) & {key for key in model if 'couplings' in key}
    assert equal(revvit.convert_state_dict(published), model)
    for held in (dict(model_state=published, epoch=3), dict(state_dict=published), published):
        converted = convert(held, Request('x.pth'))
        assert equal(converted['state_dict'], model) and converted['meta']['family'] == 'revvit'


def test_networks_of_minrev_are_told_apart():
    for name in ('minrev_vit', 'minrev_swin', 'minrev_mvit'):
        weights = GoldenRecord(name).state_dict()
        converted = convert(weights, Request('x.pth'))
        assert equal(converted['state_dict'], minrev.convert_state_dict(weights))
        assert converted['meta']['family'] == 'minrev'


def test_what_is_no_revvit_is_refused(model):
    with pytest.raises(KeyError, match="'stem.weight' is not a key of a published RevViT"):
        revvit.convert_state_dict({'stem.weight': torch.zeros(1)})
    published = as_slowfast(model)
    del published['rev_backbone.layers.1.F.attn.k.bias']
    with pytest.raises(KeyError, match=r'layer\.k\.bias. is missing'):
        revvit.convert_state_dict(published)


@pytest.fixture(scope='module')
def tool():
    """The command's ``main``."""
    spec = importlib.util.spec_from_file_location(TOOL.stem, TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.mark.parametrize('names, key', [(as_slowfast, 'model_state'), (as_mmpretrain, 'state_dict')])
def test_the_command_writes_what_mmengine_loads_strictly(names, key, tool, model, tmp_path, capsys):
    src, dst = tmp_path / 'REV_VIT_TINY.pyth', tmp_path / 'ours.pth'
    torch.save({key: names(model), 'epoch': 299}, src)
    assert tool([str(src), str(dst)]) == 0
    assert f'{len(model)} tensors' in capsys.readouterr().out
    converted = torch.load(dst, weights_only=True)
    assert equal(converted['state_dict'], model)
    assert converted['meta']['converted_from'] == src.name
    assert converted['meta']['converted_from_sha256'] == hashlib.sha256(src.read_bytes()).hexdigest()
    backbone = RevViT(ARCH, 32, 16, init_cfg=dict(type='Pretrained', checkpoint=str(dst), prefix='backbone.'))
    backbone.init_weights()
    for name, weight in backbone.state_dict().items():
        assert torch.equal(weight, model[f'backbone.{name}']), name
    assert sorted(path.name for path in tmp_path.iterdir()) == [src.name, dst.name]


@pytest.mark.parametrize('content, problem', [
    (dict(model_state={'stem.weight': torch.zeros(1)}),
     'is not a checkpoint of a RevViT or a network of minREV: no weight'),
    (dict(epoch=3), 'is not a checkpoint of a RevViT'),
    (None, 'other.pth'),
])
def test_the_command_refuses_what_is_no_revvit_and_writes_nothing(content, problem, tool, tmp_path, capsys):
    src, dst = tmp_path / 'other.pth', tmp_path / 'ours.pth'
    src.write_text('some text') if content is None else torch.save(content, src)
    assert tool([str(src), str(dst)]) == 2
    said = capsys.readouterr().err.partition(': error: ')[2].strip().splitlines()
    assert len(said) == 2 and problem in said[0]
    assert list(tmp_path.iterdir()) == [src]


@pytest.mark.subprocess
def test_the_command_in_a_process_of_its_own(model, tmp_path):
    src, dst = tmp_path / 'REV_VIT_TINY.pyth', tmp_path / 'ours.pth'
    torch.save(dict(model_state=as_slowfast(model)), src)
    command = [sys.executable, str(TOOL), str(src)]
    environment = dict(os.environ, PYTHONPATH=str(TOOL.parents[2]))
    subprocess.run([*command, str(dst)], check=True, env=environment, cwd=tmp_path)
    assert equal(torch.load(dst, weights_only=True)['state_dict'], model)
    refused = subprocess.run([*command, str(tmp_path / 'no' / 'ours.pth')], env=environment, cwd=tmp_path, text=True,
                             stderr=subprocess.PIPE)
    assert refused.returncode == 2 and 'does not exist' in refused.stderr and 'Traceback' not in refused.stderr
