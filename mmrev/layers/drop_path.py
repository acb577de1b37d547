"""Stochastic depth (Huang et al. 2016)."""
from torch import Tensor, nn


class DropPath(nn.Module):
    """In training, zeroes whole samples with probability ``drop_prob`` and scales the others by its complement.

    One product with a mask of one number per sample; only the mask is stored for backward.

    Args:
        drop_prob: Probability in ``[0, 1)``.

    Shape:
        Input and output: ``(B, ...)``.
    """

    def __init__(self, drop_prob: float = 0.):
        super().__init__()
        if not 0 <= drop_prob < 1:
            raise ValueError(f'`drop_prob` must lie in [0, 1), got {drop_prob}')
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.drop_prob:
            return x
        keep = 1 - self.drop_prob
        mask = x.new_empty(len(x), *[1] * (x.ndim - 1)).bernoulli_(keep)  # (B, 1, ...)
        return x * mask.div_(keep)

    def extra_repr(self) -> str:
        return f'drop_prob={self.drop_prob}'
