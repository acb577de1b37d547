"""Rev-Swin and Rev-MViT against minREV, and everything that a host expects of a hierarchical backbone."""
import pytest
import torch
from torch import nn

from mmrev.checkpoints.families.minrev import convert_state_dict
from mmrev.models.backbones import RevMViT, RevSwin
from mmrev.testing import assert_invertible, assert_same_gradients, bytes_per_sample, set_reversible
from support.golden import GoldenRecord, assert_agrees
from support.images import image

SWIN = dict(embed_dims=8, depths=(1, 2, 3), num_heads=(1, 2, 4))
MVIT = dict(embed_dims=8, num_layers=7, num_heads=1, downscale_indices=(2, 4))
DROPS = dict(drop_rate=0.2, attn_drop_rate=0.2, drop_path_rate=0.4)


def swin(**kwargs):
    return filled(RevSwin(**{'arch': SWIN, 'window_size': 4, 'out_indices': (0, 1, 2), **kwargs}))


def mvit(**kwargs):
    return filled(RevMViT(**{'arch': MVIT, 'img_size': 32, 'window_size': 4, 'out_indices': (0, 1, 2), **kwargs}))


def filled(model):
    """With no weight at zero: every gradient counts."""
    torch.manual_seed(0)
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model


def loss(outputs):
    return sum((x * x).sum() for x in outputs)


class Classifier(nn.Module):
    """A backbone and a linear layer, named as in mmpretrain."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.ModuleDict(dict(fc=nn.Linear(backbone.channels[-1], 10)))

    def forward(self, x):
        return self.head.fc(self.backbone(x)[-1])


class Name(str):
    """A published name that knows its tensor's shape."""


def converter(record):

    def convert(published):
        named = {}
        for key, value in published.items():
            named[key] = value if isinstance(value, torch.Tensor) else Name(value)
            if isinstance(value, str):
                named[key].shape = record.shapes[key]
        return convert_state_dict(named)

    return convert


@pytest.mark.parametrize('reversible', [True, False])
def test_golden_record_of_swin(reversible):
    backbone = RevSwin(dict(embed_dims=48, depths=(2, 2), num_heads=(2, 4)), window_size=4, out_type='avg_featmap',
                       drop_path_rate=0., shift_back=False, reversible=reversible)
    record = GoldenRecord('minrev_swin')
    assert_agrees(Classifier(backbone), record, converter(record))


@pytest.mark.parametrize('reversible', [True, False])
def test_golden_record_of_mvit(reversible):
    arch = dict(embed_dims=32, num_layers=4, num_heads=1, downscale_indices=(1, 3))
    backbone = RevMViT(arch, img_size=32, patch_kernel=3, patch_stride=2, stride_kv=2, window_size=16,
                       out_type='avg_featmap', norm_pooled=True, norm_cfg=dict(type='LN', eps=1e-5),
                       drop_path_rate=0., reversible=reversible)
    record = GoldenRecord('minrev_mvit')
    assert_agrees(Classifier(backbone), record, converter(record))


@pytest.mark.parametrize('key', ['layers.0.foo', 'stem.weight'])
def test_converter_refuses_a_foreign_key(key):
    with pytest.raises(KeyError, match=f'{key!r} is not a key of minREV'):
        convert_state_dict({key: torch.zeros(1)})


@pytest.mark.slow
@pytest.mark.parametrize('build', [swin, mvit])
@pytest.mark.parametrize('drops', [dict(drop_path_rate=0.), DROPS])
def test_gradients_equal_plain_autograd(build, drops):
    for out_indices in (-1, (0, 1, 2)):
        model = build(out_indices=out_indices, **drops).double()
        assert_same_gradients(model, image(dtype=torch.float64, requires_grad=True))
    assert_same_gradients(model, image(3, 38, 45, dtype=torch.float64))


def of_depth(build, depth, **kwargs):
    """With so many blocks, those between the first and the last stage's as deep as need be."""
    if build is swin:
        return swin(arch=dict(SWIN, depths=(1, depth - 2, 1)), **kwargs)
    return mvit(arch=dict(MVIT, num_layers=depth, downscale_indices=(2, depth - 2)), **kwargs)


@pytest.mark.parametrize('build', [swin, mvit])
@pytest.mark.parametrize('depth', [6, 7])
def test_gradients_equal_plain_autograd_at_odd_and_even_depth(build, depth):
    model = of_depth(build, depth, **DROPS).double()
    assert len(model.blocks.couplings) == depth
    assert_same_gradients(model, image(dtype=torch.float64))


@pytest.mark.parametrize('drops', [dict(drop_path_rate=0.), DROPS])
@pytest.mark.parametrize('build', [swin, mvit])
def test_gradients_equal_numerical_ones(build, drops):
    small = dict(embed_dims=2, depths=(1, 2), num_heads=(1, 1)) if build is swin else \
        dict(embed_dims=2, num_layers=4, num_heads=1, downscale_indices=(2, ))
    sizes = dict(patch_size=2) if build is swin else dict(patch_kernel=3, patch_stride=2, stride_kv=2, img_size=8)
    model = build(arch=small, window_size=2, out_indices=(0, 1), **sizes, **drops).double()

    def outputs(x):
        torch.manual_seed(2)  # the same paths and elements are dropped each time
        return model(x)

    x = image(2, 8, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(outputs, (x, ), fast_mode=True)


@pytest.mark.parametrize('build', [swin, mvit])
def test_backward_reconstructs_every_stream(build):
    assert_invertible(build(drop_rate=0.1).double(), image(dtype=torch.float64), tolerance=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize('build', [swin, mvit])
def test_two_forwards_accumulation_and_retained_graphs(build):
    gradients = []
    for reversible in (True, False):
        model = build(drop_path_rate=0.3, reversible=reversible).double()
        torch.manual_seed(0)
        first, second = (loss(model(image(dtype=torch.float64).flip(i))) for i in (0, 1))
        first.backward(retain_graph=True)
        second.backward()
        first.backward()
        gradients.append([p.grad for p in model.parameters()])
    largest = max(g.abs().max().item() for g in gradients[1])  # a bias of keys has no gradient but rounding
    for ours, plain in zip(*gradients):
        torch.testing.assert_close(ours, plain, rtol=1e-7, atol=1e-9 * largest)


@pytest.mark.parametrize('build', [swin, mvit])
@pytest.mark.parametrize('cache_every', [1, 2])
def test_keeping_states_changes_no_gradient(build, cache_every):
    assert_same_gradients(build(cache_every=cache_every).double(), image(dtype=torch.float64))


@pytest.mark.parametrize('build, channels', [(swin, (8, 16, 64)), (mvit, (16, 32, 64))])
@pytest.mark.parametrize('size', [(32, 32), (38, 45)])
def test_output_shapes(build, channels, size):
    shapes = [(2, c, -(-size[0] // stride), -(-size[1] // stride)) for c, stride in zip(channels, (4, 8, 16))]
    model = build()
    assert [tuple(x.shape) for x in model(image(2, *size))] == shapes
    pooled = build(out_type='avg_featmap', out_indices=(1, -1))
    assert [tuple(x.shape) for x in pooled(image(2, *size))] == [(2, c) for c in channels[1:]]


@pytest.mark.parametrize('model', [RevSwin, RevMViT])
@pytest.mark.parametrize('arch', ['tiny', 'small', 'base'])
def test_sizes_of_the_papers_have_four_levels(model, arch):
    with torch.device('meta'):
        backbone = model(arch, out_indices=(0, 1, 2, 3), reversible=False)
        outputs = backbone(torch.empty(1, 3, 224, 224))
    assert [x.shape[2] for x in outputs] == [56, 28, 14, 7]
    assert tuple(x.shape[1] for x in outputs) == backbone.channels


@pytest.mark.parametrize('shift', [0, 2])
def test_window_attention_is_within_windows_of_the_image(shift):
    """A token sees those of its (shifted) window that do not come from the other side of the image."""
    attention = swin().blocks.couplings[2 if shift else 1].f.layer
    assert attention.shift == shift
    x = torch.randn(1, 8, 8, 16, requires_grad=True)
    attention(x)[0, 1, 5].sum().backward()
    seen = x.grad[0].abs().sum(-1) > 0
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[(slice(0, 2), slice(2, 6)) if shift else (slice(0, 4), slice(4, 8))] = True
    assert torch.equal(seen, expected)


@pytest.mark.parametrize('build', [swin, mvit])
def test_names_do_not_depend_on_the_levels(build):
    few, many = (set(build(out_indices=i).state_dict()) for i in (-1, (0, 1, 2)))
    assert few < many and all(key.endswith(('norm.weight', 'norm.bias')) for key in many - few)


@pytest.mark.parametrize('build', [swin, mvit])
def test_bf16_autocast_trains(build):
    model = build()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        outputs = model(image())
    loss(x.float() for x in outputs).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.slow
def test_memory_does_not_grow_with_the_depth_of_a_stage():

    def per_image(depth, build):
        model = set_reversible(build(depth), True)

        def step(batch):
            model.zero_grad()
            loss(model(image(batch))).backward()

        return bytes_per_sample(step, 8, 16)

    def deep_swin(depth):
        return swin(arch=dict(SWIN, depths=(depth, 1, 1)))

    def deep_mvit(depth):
        return mvit(arch=dict(MVIT, num_layers=depth + 4, downscale_indices=(depth, depth + 2)))

    for build in (deep_swin, deep_mvit):
        assert per_image(5, build) <= per_image(2, build)


@pytest.mark.parametrize('kwargs, message', [
    (dict(arch='huge'), "`arch` must be one of .*got 'huge'"),
    (dict(arch=dict(embed_dims=8)), 'must have the keys'),
    (dict(out_indices=(0, 4)), r'`out_indices` must lie in \[-4, 4\), got \(0, 4\)'),
    (dict(out_type='raw'), "`out_type` must be one of .*got 'raw'"),
    (dict(frozen_stages=5), r'`frozen_stages` must lie in \[-1, 4\], got 5'),
])
def test_bad_arguments_are_named(kwargs, message):
    for model in (RevSwin, RevMViT):
        with pytest.raises(ValueError, match=message), torch.device('meta'):
            model(**kwargs)


def test_bad_stages_are_named():
    with pytest.raises(ValueError, match='`depths` and `num_heads` must have a positive number per stage'):
        RevSwin(dict(SWIN, depths=(2, 0, 1)))
    with pytest.raises(ValueError, match='`window_size` must be a multiple of the strides .*, got 14$'):
        RevMViT(MVIT, window_size=14)
    with pytest.raises(ValueError, match='`downscale_indices` must ascend'):
        RevMViT(dict(MVIT, downscale_indices=(2, 3)))
    with pytest.raises(ValueError, match="`norm_pooled` needs `out_type='avg_featmap'`"):
        RevMViT(MVIT, norm_pooled=True)
