"""RevViT against the published implementations, and everything that a host expects of a backbone."""
import pytest
import torch
from torch import nn

from mmrev.checkpoints.families.minrev import convert_state_dict
from mmrev.layers import MultiheadAttention, TokenPooling
from mmrev.models.backbones import RevViT
from mmrev.registry import MODELS
from mmrev.testing import assert_invertible, assert_same_gradients, bytes_per_sample, set_reversible
from support.golden import GoldenRecord, assert_agrees
from support.images import image

OPERATIONS = ('attention', 'max')
TINY = dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=32)
NUM_PARAMS = {'tiny': 5524416, 'deit-small': 21665664, 'base': 85798656, 'large': 303301632, 'huge': 630918400,
              'small': 48003840}


def tiny(**kwargs) -> RevViT:
    torch.manual_seed(0)
    model = RevViT(**{'arch': TINY, 'img_size': 32, 'patch_size': 8, **kwargs})
    for p in model.parameters():  # nothing at zero: every gradient counts
        nn.init.normal_(p, std=0.3)
    return model


class MinREV(nn.Module):
    """minREV's classifier: the norm of the pooled tokens, then a linear layer."""

    def __init__(self, reversible):
        super().__init__()
        self.backbone = RevViT(
            dict(embed_dims=64, num_layers=3, num_heads=4, feedforward_channels=256), 32, 4, norm_pooled=True,
            norm_cfg=dict(type='LN', eps=1e-5), reversible=reversible)
        for block in self.backbone.layers.couplings:
            block.f.norm.eps = 1e-6
        self.head = nn.ModuleDict(dict(fc=nn.Linear(128, 10)))

    def forward(self, x):
        return self.head.fc(self.backbone(x)[0])


def adapted(model):
    """mmpretrain's names to ours, by the model's own hook."""

    def convert(published):
        renamed = {key: value if isinstance(value, torch.Tensor) else _Name(value) for key, value in published.items()}
        model._adapt_state_dict(renamed, '', {})
        return {key: str(value) if isinstance(value, _Name) else value for key, value in renamed.items()}

    return convert


class _Name(str):
    shape = (1, 16)


@pytest.mark.slow
@pytest.mark.parametrize('reversible', [True, False])
def test_golden_record_of_mmpretrain(reversible):
    model = MODELS.build(dict(type='mmrev.RevViT', arch='deit-small', img_size=64, reversible=reversible))
    assert_agrees(model, GoldenRecord('mmpretrain_revvit_small'), adapted(model))


@pytest.mark.parametrize('reversible', [True, False])
def test_golden_record_of_minrev(reversible):
    assert_agrees(MinREV(reversible), GoldenRecord('minrev_vit'), convert_state_dict)


@pytest.mark.parametrize('arch', NUM_PARAMS)
def test_number_of_parameters(arch):
    with torch.device('meta'):
        model = RevViT(arch)
    assert sum(p.numel() for p in model.parameters()) == NUM_PARAMS[arch]


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_checkpoints_of_mmpretrain_are_loaded_as_they_are(dtype):
    mmpretrain = pytest.importorskip('mmpretrain')
    theirs = mmpretrain.models.RevVisionTransformer(
        dict(TINY), img_size=32, patch_size=8, with_cls_token=True, out_type='raw').to(dtype)
    for p in theirs.parameters():
        nn.init.normal_(p, std=0.3)
    ours = tiny(with_cls_token=True, out_type='raw').to(dtype)
    ours.load_state_dict(theirs.state_dict())
    theirs.eval()
    x = image(dtype=dtype)
    torch.testing.assert_close(ours.eval()(x)[0], theirs(x)[0], rtol=1e-4, atol=1e-5)


def test_position_embedding_of_another_size_is_resized_when_loaded():
    small, large = tiny(), tiny(img_size=64)
    large.load_state_dict(small.state_dict())
    expected = nn.functional.interpolate(
        small.pos_embed.detach().view(1, 4, 4, 16).permute(0, 3, 1, 2), (8, 8), mode='bicubic')
    torch.testing.assert_close(large.pos_embed.detach(), expected.flatten(2).transpose(1, 2))
    torch.testing.assert_close(small(image(1, 64, 64))[0], large(image(1, 64, 64))[0])


def test_position_embedding_of_a_transposed_grid_is_resized_when_loaded():
    wide, tall = tiny(img_size=(16, 64)).eval(), tiny(img_size=(64, 16)).eval()
    tall.load_state_dict(wide.state_dict())
    torch.testing.assert_close(tall(image(1, 64, 16))[0], wide(image(1, 64, 16))[0])


@pytest.mark.parametrize('operation', OPERATIONS)
@pytest.mark.parametrize('depth', [3, 4])
@pytest.mark.parametrize('drops', [{}, dict(drop_rate=0.2, attn_drop_rate=0.2, drop_path_rate=0.4)])
def test_gradients_equal_plain_autograd(depth, drops, operation):
    model = tiny(arch=dict(TINY, num_layers=depth), out_indices=(0, -1), out_type='featmap', operation=operation,
                 **drops).double()
    assert_same_gradients(model, image(4, dtype=torch.float64))
    assert_same_gradients(model, image(4, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize('operation', OPERATIONS)
@pytest.mark.parametrize('drops', [{}, dict(drop_rate=0.2, attn_drop_rate=0.2, drop_path_rate=0.4)])
def test_gradients_equal_numerical_ones(operation, drops):
    arch = dict(embed_dims=4, num_layers=2, num_heads=2, feedforward_channels=6)
    model = tiny(arch=arch, img_size=8, patch_size=4, operation=operation, **drops).double()

    def output(x):
        torch.manual_seed(2)  # the same paths and elements are dropped each time
        return model(x)[0]

    assert torch.autograd.gradcheck(output, (image(2, 8, 8, dtype=torch.float64, requires_grad=True), ))


@pytest.mark.parametrize('operation', OPERATIONS)
def test_two_forwards_accumulation_and_retained_graphs(operation):
    for reversible in (True, False):
        model = tiny(drop_path_rate=0.3, reversible=reversible, operation=operation).double()
        torch.manual_seed(0)
        first, second = model(image(dtype=torch.float64))[0], model(image(dtype=torch.float64).flip(0))[0]
        first.square().sum().backward(retain_graph=True)
        second.sum().backward()
        first.sum().backward()
        grads = [p.grad for p in model.parameters()]
        if reversible:
            expected = grads
    for ours, plain in zip(expected, grads):
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize('operation', OPERATIONS)
def test_backward_reconstructs_both_streams(operation):
    assert_invertible(tiny(drop_rate=0.1, operation=operation).double(), image(dtype=torch.float64), tolerance=1e-10)


def test_odd_blocks_pool_the_map_of_their_tokens():
    """On a grid that is not square; the even blocks and all MLPs are those of RevViT."""
    model = tiny(operation='max')
    mixers = [block.f.layer for block in model.layers.couplings]
    assert [type(mixer) for mixer in mixers] == [MultiheadAttention, TokenPooling, MultiheadAttention]
    seen = []
    mixers[1].register_forward_hook(lambda layer, inputs, output: seen.append((inputs[0], output)))
    model.eval()(image(1, 40, 24))
    (tokens, pooled), = seen
    wide = nn.functional.gelu(mixers[1].fc1(tokens)).permute(0, 3, 1, 2)
    assert tokens.shape == (1, 5, 3, 16)
    wide = nn.functional.gelu(nn.functional.max_pool2d(wide, 3, 1, 1)).permute(0, 2, 3, 1)
    torch.testing.assert_close(pooled, mixers[1].fc2(wide))


@pytest.mark.parametrize('cache_every', [1, 2])
def test_keeping_states_changes_no_gradient(cache_every):
    assert_same_gradients(tiny(cache_every=cache_every).double(), image(dtype=torch.float64))


@pytest.mark.parametrize('fusion_mode', ['concat', 'add', 'max', 'min', 'avg'])
@pytest.mark.parametrize('out_type', ['raw', 'cls_token', 'featmap', 'avg_featmap'])
def test_output_shapes_follow_out_type_and_fusion(fusion_mode, out_type):
    model = tiny(with_cls_token=True, out_type=out_type, fusion_mode=fusion_mode, out_indices=(1, 2))
    c = 32 if fusion_mode == 'concat' else 16
    shape = {'raw': (2, 31, c), 'cls_token': (2, c), 'featmap': (2, c, 5, 6), 'avg_featmap': (2, c)}[out_type]
    outputs = model(image(2, 40, 43))
    assert [tuple(x.shape) for x in outputs] == [shape] * 2 and model.channels == (c, c)


@pytest.mark.parametrize('mode', ['add', 'max', 'min', 'avg'])
def test_fusion_is_of_the_normalized_streams(mode):
    together, fused = (tiny(out_type='raw', fusion_mode=m)(image())[0] for m in ('concat', mode))
    halves = torch.stack(together.chunk(2, dim=-1))
    expected = dict(add=halves.sum(0), max=halves.amax(0), min=halves.amin(0), avg=halves.mean(0))[mode]
    torch.testing.assert_close(fused, expected)


def test_names_do_not_depend_on_the_levels():
    few, many = (set(tiny(out_indices=i).state_dict()) for i in (-1, (0, 1, 2)))
    assert few < many and all('.after.level.f.norm.' in key for key in many - few)


def test_initialisation():
    model = RevViT('tiny')
    model.init_weights()
    qkv, norm = model.layers.couplings[3].f.layer.qkv, model.layers.couplings[3].g.norm
    assert model.pos_embed.std().item() == pytest.approx(0.02, rel=0.05)
    assert qkv.weight.std().item() == pytest.approx(0.02, rel=0.05) and not qkv.bias.any()
    assert bool((norm.weight == 1).all()) and not norm.bias.any()


def test_bf16_autocast_trains_with_gradients_close_to_those_of_plain_autograd():
    exact, ours, plain = [], [], []
    for grads, reversible, enabled in ((exact, False, False), (ours, True, True), (plain, False, True)):
        model = tiny(reversible=reversible)
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=enabled):
            output = model(image(4))[0]
        output.float().square().mean().backward()
        grads += [p.grad for p in model.parameters()]
    errors = [sum((a - b).square().sum() for a, b in zip(grads, exact)).sqrt() for grads in (ours, plain)]
    assert errors[0] <= 1.2 * errors[1] and all(g.dtype == torch.float32 for g in ours)


def per_image(model, side, small, large):
    """Peak bytes of a training step that a further image adds."""

    def step(batch):
        model.zero_grad()
        model(image(batch, side, side))[0].sum().backward()

    return bytes_per_sample(step, small, large)


def test_memory_of_revvit_s_per_image():
    """At 224 pixels in float32; the depth does not matter, as the next test shows."""
    model = RevViT(dict(RevViT.arch_zoo['deit-small'], num_layers=2))
    assert per_image(model, 224, 2, 4) <= 5 * 2**20


def test_memory_does_not_grow_with_depth():

    def of_depth(depth, reversible, **kwargs):
        model = tiny(arch=dict(TINY, num_layers=depth), **kwargs)
        return per_image(set_reversible(model, reversible), 32, 8, 16)

    assert of_depth(8, True, operation='max') <= of_depth(4, True, operation='max')
    assert of_depth(8, True) <= of_depth(3, True)
    assert of_depth(8, False) > 1.5 * of_depth(4, False)


@pytest.mark.parametrize('kwargs, message', [
    (dict(arch='giant'), "`arch` must be one of .*got 'giant'"),
    (dict(arch=dict(embed_dims=8)), 'must have the keys'),
    (dict(arch=dict(TINY, num_heads=3)), '`embed_dims` must be a multiple of `num_heads`, got 16 and 3'),
    (dict(out_indices=3), r'`out_indices` must lie in \[-3, 3\), got 3'),
    (dict(out_indices=(1, 0)), '`out_indices` must ascend'),
    (dict(out_type='map'), "`out_type` must be one of .*got 'map'"),
    (dict(out_type='cls_token'), 'needs `with_cls_token=True`'),
    (dict(operation='mean'), '`operation` must be one of'),
    (dict(operation='max', with_cls_token=True), "`operation='max'` needs `with_cls_token=False`"),
    (dict(fusion_mode='mul'), '`fusion_mode` must be one of'),
    (dict(frozen_stages=4), r'`frozen_stages` must lie in \[-1, 3\], got 4'),
    (dict(norm_pooled=True, out_type='raw'), "`norm_pooled` needs `out_type='avg_featmap'`"),
    (dict(norm_cfg=dict(type='BN')), '`norm_cfg` must name a norm of tokens'),
])
def test_bad_arguments_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        tiny(**kwargs)
