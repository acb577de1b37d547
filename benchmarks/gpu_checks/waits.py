"""No forward or backward waits for the device."""
import torch
from support.backbones import BACKBONES, HEIGHT, WIDTH, build
from support.images import image
from torch.utils._pytree import tree_flatten

from . import On, check, needs_gpus


def register(name: str) -> None:

    @check(f'no waits for the device, {name}')
    def no_waits(on: On) -> str:
        needs_gpus(on)
        model, x = build(name).train().to(on.device), image(2, HEIGHT, WIDTH).to(on.device)
        for i in range(3):
            torch.cuda.synchronize(on.device)
            try:
                torch.cuda.set_sync_debug_mode('error' if i else 'default')  # the first call initializes libraries
                sum(y.sum() for y in tree_flatten(model(x))[0]).backward()
            finally:
                torch.cuda.set_sync_debug_mode('default')
        return 'none in forward and backward'


for _name in BACKBONES:
    register(_name)
