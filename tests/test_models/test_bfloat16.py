"""Under bfloat16 autocast the gradients of deep reversible transformers are as good as those of plain autograd."""
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmrev.models.backbones import RevMViT, RevSwin, RevViT
from mmrev.testing import set_reversible


def vit(depth):
    return RevViT(dict(embed_dims=48, num_layers=depth, num_heads=3, feedforward_channels=192), img_size=32,
                  patch_size=8)


def swin(depth):
    return RevSwin(dict(embed_dims=24, depths=(2, depth - 4, 2), num_heads=(1, 2, 4)), window_size=4,
                   drop_path_rate=0., out_type='avg_featmap')


def mvit(depth):
    return RevMViT(dict(embed_dims=24, num_layers=depth, num_heads=1, downscale_indices=(2, depth - 2)), img_size=32,
                   window_size=8, drop_path_rate=0., out_type='avg_featmap')


def gradients(model, images, reversible, amp):
    set_reversible(model, reversible).zero_grad()
    with torch.autocast('cpu', torch.bfloat16, enabled=amp):
        scores = model.head(model.backbone(images)[0])
    F.cross_entropy(scores.float(), torch.arange(len(images)) % 10).backward()
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.slow
@pytest.mark.parametrize('depth', [12, 24])
@pytest.mark.parametrize('build', [vit, swin, mvit])
def test_gradients_are_at_most_a_fifth_further_from_float32_than_plain_ones(build, depth):
    torch.manual_seed(0)
    backbone = build(depth)
    backbone.init_weights()
    model = nn.ModuleDict(dict(backbone=backbone, head=nn.Linear(backbone.channels[-1], 10)))
    images = torch.randn(8, 3, 32, 32)
    exact = gradients(model, images, reversible=False, amp=False)
    ours, plain = (gradients(model, images, reversible, amp=True) - exact for reversible in (True, False))
    assert 0 < ours.norm() <= 1.2 * plain.norm()
