"""Mixed precision without a GPU: what is computed in bfloat16, what stays float32, and with reversible backbones."""
import contextlib
from types import SimpleNamespace

import pytest
import torch
from mmcv.ops import RoIAlign
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from torch import nn

import mmrev  # noqa: F401  registers the scope
from mmrev.apis.run import running
from mmrev.optim.bfloat16_optim_wrapper import _parts, bfloat16
from mmrev.problems import ProblemError


class Detector(BaseModel):
    """A backbone of two convolutions, and a head that pools at boxes with an operator that has no bfloat16."""

    def __init__(self, backbone='backbone'):
        super().__init__()
        self.part = backbone
        self.add_module(backbone, nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)))
        self.pool = RoIAlign(2)
        self.head = nn.Conv2d(4, 2, 1)
        self.seen = {}

    def forward(self, inputs, data_samples=None, mode='tensor'):
        maps = getattr(self, self.part)(inputs)
        scores = self.head(self.pool(maps, torch.tensor([[0., 0., 0., 7., 7.]])))
        self.seen = dict(maps=maps.dtype, scores=scores.dtype)
        return dict(loss=scores.square().mean()) if mode == 'loss' else scores


def wrapper_for(model, **options):
    config = dict(type='mmrev.BFloat16OptimWrapper', optimizer=dict(type='SGD', lr=.1), **options)
    return build_optim_wrapper(model, config)


def dtypes_within(model):
    """The output dtype of every convolution in the next forward."""
    seen = {}

    def note(name, output):
        seen[name] = output.dtype

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _module, _args, output, name=name: note(name, output))
    return seen


def test_layers_compute_in_bfloat16_and_parts_exchange_float32():
    model = Detector()
    wrapper, seen = wrapper_for(model), dtypes_within(model)
    with wrapper.optim_context(model):
        loss = model(torch.rand(1, 3, 8, 8), mode='loss')['loss']
    wrapper.update_params(loss)
    assert set(seen.values()) == {torch.bfloat16} and len(seen) == 3
    assert set(model.seen.values()) == {torch.float32}
    assert all(parameter.dtype is torch.float32 for parameter in model.parameters())
    assert all(parameter.grad is None or parameter.grad.dtype is torch.float32 for parameter in model.parameters())


def test_outside_of_a_training_step_everything_is_as_without_it():
    model = Detector()
    with wrapper_for(model).optim_context(model):
        model(torch.rand(1, 3, 8, 8))
    seen = dtypes_within(model)
    model(torch.rand(1, 3, 8, 8))
    assert set(seen.values()) == {torch.float32}


def test_gradients_accumulate_over_steps():
    torch.manual_seed(0)
    model, image = Detector(), torch.rand(1, 3, 8, 8)
    wrapper = wrapper_for(model, accumulative_counts=2)
    wrapper.initialize_count_status(model, 0, 4)
    before = model.head.weight.detach().clone()
    moved = []
    for _ in range(2):
        with wrapper.optim_context(model):
            loss = model(image, mode='loss')['loss']
        wrapper.update_params(loss)
        moved.append(not torch.equal(model.head.weight, before))
    assert moved == [False, True]


def gradient_of_a_backbone(reversible, context):
    torch.manual_seed(0)
    backbone = MODELS.build(dict(type='mmrev.RevBiFPN', arch='s0', reversible=reversible))
    model = nn.ModuleDict(dict(backbone=backbone))
    with context(model):
        levels = model['backbone'](torch.rand(2, 3, 64, 64))
    assert all(level.dtype is torch.float32 for level in levels)
    sum(level.square().mean() for level in levels).backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


@pytest.mark.slow
def test_a_reversible_backbone_is_as_near_to_float32_as_plain_autograd():
    exact = gradient_of_a_backbone(False, contextlib.nullcontext)
    plain, reversible = (gradient_of_a_backbone(kind, bfloat16) for kind in (False, True))
    assert torch.dist(plain, exact) < .1 * torch.linalg.norm(exact)
    assert torch.dist(reversible, exact) < 1.5 * torch.dist(plain, exact)


def test_a_model_that_has_no_bfloat16_kernels_is_refused():
    def train(model):
        with running(SimpleNamespace(hooks=[], cfg=Config())), bfloat16(model):
            model(torch.rand(1, 3, 8, 8))

    train(Detector())
    with pytest.raises(ProblemError, match='BFloat16') as caught:
        train(Detector(backbone='features'))  # of no name by which the wrapper would know it
    assert caught.value.fix.startswith('Leave out --amp') and caught.value.status == 2


def test_parts_are_found_by_name_without_a_walk_through_backbone_and_neck():
    """The hooks are set in every iteration."""

    class Unwalked(nn.Module):

        def named_children(self):
            raise AssertionError

    def head():
        return nn.ModuleDict(dict(convs=nn.Conv2d(1, 1, 1), bbox_head=nn.ModuleList([nn.Identity(), nn.Identity()])))

    neck = nn.Sequential(nn.ModuleDict(dict(inner_head=Unwalked())))
    model = nn.ModuleDict(dict(module=nn.ModuleDict(dict(
        backbone=nn.ModuleDict(dict(head=Unwalked())), neck=neck, roi_head=head(), other=nn.Identity()))))
    parts, inner = list(_parts(model)), model['module']
    boxes = inner['roi_head']['bbox_head']
    assert parts == [inner['backbone'], neck, neck[0], inner['roi_head'], boxes, boxes[0], boxes[1]]
