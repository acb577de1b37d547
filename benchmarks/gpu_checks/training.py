"""A training of some length in mixed precision."""
import torch
from support.backbones import build
from torch import nn

from . import On, check


@check('500 steps with GradScaler and one overflow')
def with_grad_scaler(on: On) -> str:
    """The overflow skips one step, and the loss falls."""
    torch.manual_seed(0)
    backbone = build('RevViT')
    for p in backbone.parameters():
        nn.init.trunc_normal_(p, std=0.05)
    model = nn.ModuleDict(dict(backbone=backbone, head=nn.Linear(32, 4))).to(on.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler(on.device.type, init_scale=2.**10, growth_interval=10**6)
    images, labels = torch.randn(16, 3, 64, 64, device=on.device), torch.arange(16, device=on.device) % 4
    steps, losses, skipped = on.times(500), [], 0
    for i in range(steps):
        with torch.autocast(on.device.type, torch.float16):
            levels = model['backbone'](images)
            loss = nn.functional.cross_entropy(model['head'](levels[-1].float().mean((2, 3))), labels)
        optimizer.zero_grad()
        scaler.scale(loss * (float('inf') if i == steps // 2 else 1.)).backward()
        before = scaler.get_scale()
        scaler.step(optimizer)
        scaler.update()
        skipped += scaler.get_scale() < before
        losses.append(float(loss))
    assert skipped == 1, f'{skipped} steps were skipped'
    assert all(bool(p.isfinite().all()) for p in model.parameters()), 'a weight is not finite'
    assert losses[-1] < losses[0], f'the loss went from {losses[0]:.3f} to {losses[-1]:.3f}'
    return f'loss from {losses[0]:.3f} to {losses[-1]:.3f} in {steps} steps, {skipped} skipped'
