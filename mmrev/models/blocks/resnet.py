"""What the ResNets share: the names of torchvision and OpenMMLab, and the forward."""
from abc import abstractmethod
from typing import List, Tuple

from torch import Tensor, nn

from .activated_backbone import ActivatedBackbone


class ResNetBackbone(ActivatedBackbone):
    """``conv1`` and ``bn1``, a stem that a subclass may extend, then ``layer1`` ... ``layer4``."""

    @abstractmethod
    def _stem(self, x: Tensor) -> Tensor:
        """The input of ``layer1``."""

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        x, levels = self._stem(x), []
        for i, stage in enumerate((self.layer1, self.layer2, self.layer3, self.layer4)):
            x = stage(x)
            if i in self.out_indices:
                levels.append(x)
        return tuple(levels)

    def _stages(self) -> List[List[nn.Module]]:
        return [[self.conv1, self.bn1], [self.layer1], [self.layer2], [self.layer3], [self.layer4]]
