"""The two-layer MLP of transformers (Vaswani et al. 2017, eq. 2) with GELU (Hendrycks and Gimpel 2016)."""
from typing import Optional

import torch.nn.functional as F
from torch import Tensor, nn

from .fused.gelu_linear import can_fuse, gelu_linear


class MLP(nn.Module):
    """``fc2(gelu(fc1(x)))``.

    In training, only the output of ``fc1`` is stored for the wide layer, where autograd would store input and output of
    GELU. It can be differentiated once.

    Args:
        embed_dims: Channels of the input.
        hidden_dims: Channels in between.
        out_dims: Channels of the output; None is ``embed_dims``.
        drop_rate: Dropout after GELU and after the last layer. With dropout, autograd stores both.

    Shape:
        Input: ``(..., embed_dims)``; output: ``(..., out_dims)``.
    """

    def __init__(self, embed_dims: int, hidden_dims: int, out_dims: Optional[int] = None, drop_rate: float = 0.):
        super().__init__()
        self.fc1 = nn.Linear(embed_dims, hidden_dims)
        self.fc2 = nn.Linear(hidden_dims, out_dims or embed_dims)
        self.drop_rate = drop_rate

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        if self.training and self.drop_rate:
            x = self.fc2(F.dropout(F.gelu(x), self.drop_rate))
            return F.dropout(x, self.drop_rate)
        if can_fuse(self.fc1, self.fc2):
            return gelu_linear(x, self.fc2)
        return self.fc2(F.gelu(x))

    def extra_repr(self) -> str:
        return f'drop_rate={self.drop_rate}'
