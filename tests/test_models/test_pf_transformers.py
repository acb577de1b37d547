"""ViT and PiT with parameter-free layers: against the published networks, and what a host expects of a backbone."""
import pytest
import torch
import torch.nn.functional as F
from mmengine.runner import get_state_dict, load_checkpoint, save_checkpoint
from torch import Tensor, nn

from mmrev.checkpoints.families.parameter_free import convert_state_dict
from mmrev.layers import MultiheadAttention, TokenPooling
from mmrev.models.backbones import PFViT, PiT
from mmrev.registry import MODELS
from support.golden import GoldenRecord, assert_agrees
from support.images import image

TINY = dict(
    vit=dict(type='mmrev.PFViT', arch=dict(embed_dims=16, num_layers=4, num_heads=2), img_size=32, patch_size=8,
             out_indices=(1, 3)),
    pit=dict(type='mmrev.PiT', img_size=32, arch=dict(
        embed_dims=(8, 16, 32), num_layers=(2, 2, 2), num_heads=(1, 2, 4), patch_size=8, stride=4)))


def build(name, operation='max', **kwargs) -> nn.Module:
    torch.manual_seed(0)
    model = MODELS.build({**TINY[name], 'operation': operation, **kwargs})
    for p in model.parameters():  # nothing at zero: every gradient counts
        nn.init.normal_(p, std=0.3)
    return model


class Classifier(nn.Module):
    """As the published networks end."""

    def __init__(self, backbone: nn.Module):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Module()
        self.head.fc = nn.Linear(backbone.channels[-1], 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.head.fc(self.backbone(x)[-1].mean((2, 3)))


@pytest.mark.slow
@pytest.mark.parametrize('name, kind', [('pf_vit_s_max', PFViT), ('pf_pit_s_max', PiT)])
def test_golden_record(name, kind):
    record = GoldenRecord(name)
    names = dict(zip(record.shapes, convert_state_dict(record.state_dict())))  # by the shapes of the weights
    assert_agrees(Classifier(kind('s', 'max')), record, lambda values: {names[key]: v for key, v in values.items()})


@pytest.mark.parametrize('kind, arch, operation, number', [
    (PFViT, 's', 'max', 23819368), (PiT, 's', 'max', 25119784), (PFViT, 's', 'attention', 22049896)])
def test_number_of_parameters(kind, arch, operation, number):
    """With attention: DeiT-S's 22,050,664 without the class token and its position."""
    with torch.device('meta'):
        assert sum(p.numel() for p in Classifier(kind(arch, operation)).parameters()) == number


@pytest.mark.parametrize('kind', [PFViT, PiT])
@pytest.mark.parametrize('arch', ['ti', 's', 'b'])
def test_even_blocks_attend_and_odd_ones_pool(kind, arch):
    with torch.device('meta'):
        model = kind(arch, 'max')
    groups = [model.blocks] if kind is PFViT else model.stages
    for blocks in groups:
        kinds = [type(block.spatial) for block in blocks]
        assert kinds == [(MultiheadAttention, TokenPooling)[i % 2] for i in range(len(blocks))]


def test_s_has_levels_of_27_14_and_7_tokens():
    with torch.device('meta'):
        assert [x.shape[1:] for x in PiT('s', 'max')(torch.empty(1, 3, 224, 224))] == [
            (144, 27, 27), (288, 14, 14), (576, 7, 7)]


@pytest.mark.parametrize('name', TINY)
def test_any_grid_of_tokens_passes(name):
    levels = build(name).eval()(image(1, 45, 70))
    assert [tuple(x.shape[2:]) for x in levels] == dict(vit=[(6, 9)] * 2, pit=[(11, 17), (6, 9), (3, 5)])[name]


def test_a_pooling_block_sees_its_neighbours_on_a_grid_that_is_not_square():
    layer = TokenPooling(4)
    x = torch.randn(2, 3, 5, 4)  # (B, H, W, C)
    wide = F.gelu(layer.fc1(x)).permute(0, 3, 1, 2)
    expected = layer.fc2(F.gelu(F.max_pool2d(wide, 3, 1, 1)).permute(0, 2, 3, 1))
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize('name', TINY)
def test_weights_of_another_image_size_fit(name):
    weights, model = build(name).state_dict(), build(name, img_size=48)
    shape = model.pos_embed.shape
    model.load_state_dict(weights)
    assert model.pos_embed.shape == shape
    small = build(name)
    small.load_state_dict(weights)
    torch.testing.assert_close(model.eval()(image(1, 48, 48))[0], small.eval()(image(1, 48, 48))[0])


@pytest.mark.parametrize('name', TINY)
def test_weights_of_a_grid_that_is_not_square_fit(name, tmp_path):
    """Not even where it has as many tokens as ours: the file says which grid it is of."""
    wide, tall = build(name, img_size=(24, 96)), build(name, img_size=(96, 24))
    wide.init_weights()
    save_checkpoint(get_state_dict(wide), str(tmp_path / 'wide.pth'))
    load_checkpoint(tall, str(tmp_path / 'wide.pth'), strict=True)
    torch.testing.assert_close(tall.eval()(image(1, 96, 24))[0], wide.eval()(image(1, 96, 24))[0])


@pytest.mark.parametrize('name', TINY)
def test_initialisation(name):
    model = MODELS.build(TINY[name])
    model.init_weights()
    assert 0.01 < model.pos_embed.std() < 0.03 and bool((model.norm.weight == 1).all())


@pytest.mark.parametrize('kind, deviation', [(PFViT, 0.02), (PiT, (3 * 192)**-0.5)])
def test_linear_layers_begin_as_published(kind, deviation):
    """ViT's from a normal distribution; PiT's as PyTorch begins them, from a uniform one."""
    torch.manual_seed(0)
    arch = dict(embed_dims=192, num_layers=1) if kind is PFViT else dict(embed_dims=(192, ), num_layers=(1, ), stride=8)
    heads = 3 if kind is PFViT else (3, )
    model = kind(arch=dict(arch, num_heads=heads, **(dict(patch_size=16) if kind is PiT else {})), out_indices=(0, ))
    model.init_weights()
    weight = next(layer.weight for layer in model.modules() if isinstance(layer, torch.nn.Linear))
    assert float(weight.std()) == pytest.approx(deviation, rel=0.02)


@pytest.mark.parametrize('kind, mistake, message', [
    (PFViT, dict(arch='l'), '`arch` must be one of'), (PFViT, dict(operation='conv'), '`operation` must be one of'),
    (PFViT, dict(out_indices=(12, )), '`out_indices`'), (PFViT, dict(frozen_stages=13), '`frozen_stages`'),
    (PiT, dict(arch=dict(embed_dims=8)), 'must have the keys'), (PiT, dict(out_indices=(3, )), '`out_indices`')])
def test_mistakes_are_named(kind, mistake, message):
    with torch.device('meta'), pytest.raises(ValueError, match=message):
        kind(**mistake)
