"""Residual functions of transformers with the norm first."""
from torch import Tensor, nn


class PreNorm(nn.Module):
    """A residual function of a transformer, without the sum: ``drop_path(layer(norm(x)))``.

    Args:
        norm: Norm of the tokens.
        layer: The layer after the norm.
        drop_path: Stochastic depth.
    """

    def __init__(self, norm: nn.Module, layer: nn.Module, drop_path: nn.Module):
        super().__init__()
        self.norm = norm
        self.layer = layer
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        return self.drop_path(self.layer(self.norm(x)))
