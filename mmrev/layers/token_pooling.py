"""The parameter-free layer that replaces self-attention (Han et al. 2022, arXiv:2202.02777)."""
import torch.nn.functional as F
from torch import Tensor, nn

from .fused.pooled_linear import can_fuse, pooled_linear
from .max_pool import max_pool_tokens


class TokenPooling(nn.Module):
    """Expand, max-pool the map of tokens by 3x3, project: ``fc2(gelu(max(gelu(fc1(x)))))``.

    The tokens keep their layout in memory, channels last. Both activations are the published ones. In training, only
    the output of ``fc1`` is stored for the wide layer; it can be differentiated once.

    Args:
        embed_dims: Channels of input and output.
        expand_ratio: Factor of the channels that are pooled.
        drop_rate: Dropout of the output.

    Shape:
        Input and output: ``(B, H, W, embed_dims)``.
    """

    def __init__(self, embed_dims: int, expand_ratio: int = 3, drop_rate: float = 0.):
        super().__init__()
        self.fc1 = nn.Linear(embed_dims, expand_ratio * embed_dims)
        self.fc2 = nn.Linear(expand_ratio * embed_dims, embed_dims)
        self.drop = nn.Dropout(drop_rate) if drop_rate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc1(x)
        if can_fuse(x, self.fc1, self.fc2):
            x = pooled_linear(x, self.fc2)
        else:
            x = self.fc2(F.gelu(max_pool_tokens(F.gelu(x))))
        return self.drop(x)
