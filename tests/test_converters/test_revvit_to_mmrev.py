"""Checkpoints of PySlowFast, mmpretrain and minREV as mmrev's networks load them."""
import pytest
import torch
from torch import nn

from golden import GoldenRecord
from mmrev.converters import minrev, revvit
from mmrev.models.backbones import RevViT

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
        assert equal(revvit.convert_checkpoint(held), model)


def test_networks_of_minrev_are_told_apart():
    for name in ('minrev_vit', 'minrev_swin', 'minrev_mvit'):
        weights = GoldenRecord(name).state_dict()
        assert equal(revvit.convert_checkpoint(weights), minrev.convert_state_dict(weights))


def test_what_is_no_revvit_is_refused(model):
    with pytest.raises(KeyError, match="'stem.weight' is not a key of a published RevViT"):
        revvit.convert_state_dict({'stem.weight': torch.zeros(1)})
    with pytest.raises(KeyError, match='there is no state dict in it'):
        revvit.convert_checkpoint([1])
    published = as_slowfast(model)
    del published['rev_backbone.layers.1.F.attn.k.bias']
    with pytest.raises(KeyError, match=r'layer\.k\.bias. is missing'):
        revvit.convert_state_dict(published)
