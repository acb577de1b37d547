"""`overlap=True` in the config of any reversible backbone: another order of work, not another bit."""
import threading

import pytest
import torch
from torch import nn

from mmrev.registry import MODELS
from mmrev.reversible import TwoStreamCoupling

DROPS = dict(drop_rate=0.2, attn_drop_rate=0.2, drop_path_rate=0.4)
BACKBONES = {
    'RevViT': dict(arch=dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=32), img_size=32,
                   patch_size=8, out_indices=(1, 2), out_type='featmap', **DROPS),
    'RevSwin': dict(arch=dict(embed_dims=8, depths=(1, 2, 3), num_heads=(1, 2, 4)), window_size=4,
                    out_indices=(0, 1, 2), **DROPS),
    'RevMViT': dict(arch=dict(embed_dims=8, num_layers=7, num_heads=1, downscale_indices=(2, 4)), img_size=32,
                    window_size=4, out_indices=(0, 1, 2), **DROPS),
    'RevBiFPN': dict(arch=dict(channels=(48, 8, 8, 12), num_extra_stages=1, num_blocks=1), drop_path_rate=0.4),
}


def train_once(name, amp, **kwargs):
    """Outputs, gradients, buffers and random state of a step, and the threads that the first block ran on."""
    torch.manual_seed(0)
    model = MODELS.build(dict(type=f'mmrev.{name}', **BACKBONES[name], **kwargs))
    for p in model.parameters():  # nothing at zero: every gradient counts
        nn.init.normal_(p, std=0.3)
    threads = []
    block = next(m for m in model.modules() if isinstance(m, TwoStreamCoupling))
    block.f.register_forward_pre_hook(lambda *_: threads.append(threading.current_thread().name))
    images = torch.randn(4, 3, 32, 32, requires_grad=True)
    with torch.autocast('cpu', torch.bfloat16, enabled=amp):
        outputs = model(images)
    sum((x * x.detach().cos()).sum() for x in outputs).backward()
    tensors = {'images': images.grad, 'random state': torch.get_rng_state(), **dict(model.named_buffers())}
    tensors.update({f'output {i}': x for i, x in enumerate(outputs)})
    tensors.update({f'gradient of {key}': p.grad for key, p in model.named_parameters()})
    return tensors, threads


@pytest.mark.slow
@pytest.mark.parametrize('amp', [False, True])
@pytest.mark.parametrize('name', BACKBONES)
def test_overlap_in_a_config_changes_no_bit_of_a_training_step(name, amp):
    expected, one = train_once(name, amp)
    ours, two = train_once(name, amp, overlap=True)
    for key, x in expected.items():
        assert torch.equal(ours[key], x), key
    assert len(set(one)) == 1 and len(one) == len(two) == 2
    assert any(thread.startswith('mmrev-overlap') for thread in two)
