"""Random images."""
from typing import Optional

import torch
from torch import Tensor


def image(batch: int = 2, height: int = 32, width: Optional[int] = None, **kwargs) -> Tensor:
    """The same random images ``(batch, 3, height, width)`` for the same sizes; square by default."""
    return torch.randn(batch, 3, height, width or height, generator=torch.Generator().manual_seed(1), **kwargs)
