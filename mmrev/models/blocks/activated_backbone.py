"""What the backbones with activated norms have in common."""
import math
from abc import abstractmethod
from typing import List, Optional, Sequence, Tuple, Union

from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmrev.layers import ABN, BatchNormAct

from ..pretrained import initialization, starts_from_weights
from .two_stream import level_indices

DEFAULT_NORM = dict(type='mmrev.InPlaceABN', activation='leaky_relu', activation_param=0.01)


def activated_norm(norm_cfg: dict, channels: int, activation: Optional[str] = None) -> Union[ABN, BatchNormAct]:
    """Build a norm that holds its activation.

    Args:
        norm_cfg: ``mmrev.InPlaceABN``, ``mmrev.InPlaceABNSync``, ``mmrev.ABN`` or ``mmrev.BatchNormAct``.
        channels: Channels of its input.
        activation: In place of that of ``norm_cfg``.

    Raises:
        ValueError: For a norm without an activation.
    """
    if activation is not None:
        norm_cfg = {**norm_cfg, 'activation': activation}
    elif 'activation' not in norm_cfg:
        norm_cfg = {'activation': 'leaky_relu', **norm_cfg}
    try:
        norm = build_norm_layer(norm_cfg, channels)[1]
    except TypeError as error:
        raise ValueError(_not_activated(norm_cfg)) from error
    if not isinstance(norm, (ABN, BatchNormAct)):
        raise ValueError(_not_activated(norm_cfg))
    return norm


def _not_activated(norm_cfg: dict) -> str:
    return (f'`norm_cfg` must name a norm that holds its activation: mmrev.InPlaceABN, mmrev.InPlaceABNSync, mmrev.ABN '
            f'or mmrev.BatchNormAct (plain batch norm and activation); got {norm_cfg}')


def image_stem(in_channels: int, channels: int, deep: bool, norm_cfg: dict) -> nn.Sequential:
    """Convolution of stride 2, 7x7 or (``deep``) three 3x3, and max pooling: to a quarter of the resolution.

    The last convolution has no norm: the first block after it begins with one.
    """
    layers = nn.Sequential()
    if deep:
        for i, (before, stride) in enumerate([(in_channels, 2), (channels, 1), (channels, 1)], 1):
            layers.add_module(f'conv{i}', nn.Conv2d(before, channels, 3, stride, 1, bias=False))
            if i < 3:
                layers.add_module(f'bn{i}', activated_norm(norm_cfg, channels))
    else:
        layers.add_module('conv1', nn.Conv2d(in_channels, channels, 7, 2, 3, bias=False))
    layers.add_module('pool', nn.MaxPool2d(3, 2, 1))
    return layers


class ActivatedBackbone(BaseModule):
    """Levels to return, frozen stages and frozen statistics of a backbone of several stages.

    A subclass builds its modules, then calls :meth:`_check_levels` and :meth:`_freeze_stages`.

    Args:
        in_channels: Channels of the image.
        out_indices: Stages whose outputs are returned, from 0, or from -1, the last, backwards.
        frozen_stages: 0 freezes the stem, ``k`` also stages 1 ... ``k``: no gradient, eval mode; -1 freezes nothing.
        norm_eval: Keep the statistics of norms frozen in training; None does where ``init_cfg`` names weights.
        norm_cfg: Norm with activation; None for :data:`DEFAULT_NORM`.
        init_cfg: Initialisation; by default Xavier's, normal, with the gain of the activation, as published.

    Attributes:
        channels: Channels of the levels that are returned.
    """
    channels: Tuple[int, ...]

    def __init__(self, in_channels: int, out_indices: Sequence[int], frozen_stages: int, norm_eval: Optional[bool],
                 norm_cfg: Optional[dict], init_cfg: Union[dict, List[dict], None]):
        self.norm_cfg = dict(DEFAULT_NORM if norm_cfg is None else norm_cfg)
        super().__init__(initialization(init_cfg, self._default_init(self.norm_cfg)))
        self.in_channels = in_channels
        self.out_indices = out_indices
        self.frozen_stages = frozen_stages
        self.norm_eval = starts_from_weights(init_cfg) if norm_eval is None else norm_eval

    @staticmethod
    def _default_init(norm_cfg: dict) -> List[dict]:
        slope = norm_cfg.get('activation_param')
        leaky = norm_cfg.get('activation', 'leaky_relu') == 'leaky_relu'
        gain = math.sqrt(2 / (1 + (0.01 if slope is None else slope)**2)) if leaky else math.sqrt(2)
        return [dict(type='Xavier', layer='Conv2d', distribution='normal', gain=gain)]

    def _check_levels(self, channels: Sequence[int]) -> None:
        """Take the channels of all stages."""
        stages = len(channels)
        self.out_indices = level_indices(self.out_indices, stages)
        if not -1 <= self.frozen_stages <= stages:
            raise ValueError(f'`frozen_stages` must lie in [-1, {stages}], got {self.frozen_stages}')
        self.channels = tuple(channels[i] for i in self.out_indices)

    @abstractmethod
    def _frozen(self) -> List[nn.Module]:
        """The modules that ``frozen_stages`` >= 0 freezes."""

    def train(self, mode: bool = True) -> 'ActivatedBackbone':
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for m in self.modules():
                if isinstance(m, _BatchNorm):
                    m.eval()
        return self

    def _freeze_stages(self) -> None:
        for module in self._frozen() if self.frozen_stages >= 0 else ():
            module.eval()
            module.requires_grad_(False)
