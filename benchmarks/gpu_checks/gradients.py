"""Gradients of whole networks: against float64 on the CPU, against plain autograd, in both autocasts."""
import copy
import inspect
from typing import Dict, Optional

import torch
from support.backbones import BACKBONES, HEIGHT, WIDTH, build, kind
from support.images import image
from torch import Tensor, nn

from mmrev.testing import assert_same_gradients, set_reversible

from . import On, check

REVERSIBLE = tuple(name for name in BACKBONES
                   if ', ' not in name and 'reversible' in inspect.signature(kind(name)).parameters)


def network(name: str) -> nn.Module:
    """A small backbone at the start of its training; weights far from zero would amplify rounding."""
    torch.manual_seed(0)
    model = build(name).train()
    for p in model.parameters():
        if p.ndim > 1:
            nn.init.trunc_normal_(p, std=p[0].numel()**-0.5)
        else:
            nn.init.uniform_(p, 0.5, 1.)
    return model


def gradients(model: nn.Module, x: Tensor, autocast: Optional[torch.dtype] = None) -> Dict[str, Tensor]:
    """By name, in float64 on the CPU."""
    model.zero_grad()
    torch.manual_seed(1)
    with torch.autocast(x.device.type, autocast, enabled=autocast is not None):
        outputs = model(x)
    outputs = outputs if isinstance(outputs, tuple) else (outputs, )
    sum((y.double() * torch.linspace(-1, 1, y.numel(), dtype=torch.float64, device=y.device).view_as(y)).sum()
        for y in outputs).backward()
    return {name: p.grad.double().cpu() for name, p in model.named_parameters() if p.grad is not None}


def distance(ours: Dict[str, Tensor], expected: Dict[str, Tensor]) -> float:
    """Of all gradients together, relative."""
    assert ours.keys() == expected.keys(), ours.keys() ^ expected.keys()
    apart = sum((ours[name] - x).square().sum() for name, x in expected.items())
    found = float((apart / sum(x.square().sum() for x in expected.values())).sqrt())
    assert found == found, 'a gradient is not finite'
    return found


def register_gradients(name: str) -> None:

    @check(f'gradients in float32, {name}')
    def against_float64(on: On) -> str:
        model = network(name)
        exact = gradients(copy.deepcopy(model).double(), image(2, HEIGHT, WIDTH).double())
        found = distance(gradients(model.to(on.device), image(2, HEIGHT, WIDTH).to(on.device)), exact)
        assert found < 2e-2, f'{found:.2e} away from float64 on the CPU'
        return f'{found:.1e} away from float64 on the CPU'


for _name in BACKBONES:
    register_gradients(_name)


@check('gradients and generators, reversible against plain autograd')
def against_plain(on: On) -> str:
    for name in REVERSIBLE:
        model = network(name).to(on.device)
        assert_same_gradients(model, image(2, HEIGHT, WIDTH).to(on.device), rtol=1e-2)
    return f'{", ".join(REVERSIBLE)}: the same, and the same random numbers afterwards'


def register_autocast(name: str, dtype: torch.dtype) -> None:
    kind = str(dtype).split('.')[-1]

    @check(f'gradients under {kind} autocast, {name}')
    def under_autocast(on: On) -> str:
        model, x = network(name).to(on.device), image(2, HEIGHT, WIDTH).to(on.device)
        exact = gradients(set_reversible(model, False), x)
        plain = distance(gradients(model, x, dtype), exact)
        ours = distance(gradients(set_reversible(model, True), x, dtype), exact)
        assert ours < 2 * plain + 1e-3, f'{ours:.2e} away from float32, plain autograd {plain:.2e}'
        return f'{ours:.1e} away from float32, plain autograd {plain:.1e}'


for _name in REVERSIBLE:
    for _dtype in (torch.float16, torch.bfloat16):
        register_autocast(_name, _dtype)
