"""Random images."""
from typing import Optional

import torch
from torch import Tensor


def random(*shape: int, seed: int = 1, **kwargs) -> Tensor:
    """The same random numbers for the same shape and seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **kwargs)


def image(batch: int = 2, height: int = 32, width: Optional[int] = None, **kwargs) -> Tensor:
    """The same random images ``(batch, 3, height, width)`` for the same sizes; square by default."""
    return random(batch, 3, height, width or height, **kwargs)
