"""What backbones whose norms include the activation share."""
import math
from typing import List, Optional, Sequence, Union

from mmcv.cnn import build_norm_layer
from torch import nn

from mmrev.layers import ABN, BatchNormAct

from ..backbone import Backbone

DEFAULT_NORM = dict(type='mmrev.InPlaceABN', activation='leaky_relu', activation_param=0.01)


def activated_norm(norm_cfg: dict, channels: int, activation: Optional[str] = None) -> Union[ABN, BatchNormAct]:
    """Build a norm that includes its activation.

    Args:
        norm_cfg: ``mmrev.InPlaceABN``, ``mmrev.InPlaceABNSync``, ``mmrev.ABN`` or ``mmrev.BatchNormAct``.
        channels: Channels of its input.
        activation: Replaces that of ``norm_cfg``.

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


def xavier_init(norm_cfg: dict) -> List[dict]:
    """Initialize convolutions with Xavier's normal distribution and the gain of the norm's activation."""
    slope = norm_cfg.get('activation_param')
    leaky = norm_cfg.get('activation', 'leaky_relu') == 'leaky_relu'
    gain = math.sqrt(2 / (1 + (0.01 if slope is None else slope)**2)) if leaky else math.sqrt(2)
    return [dict(type='Xavier', layer='Conv2d', distribution='normal', gain=gain)]


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


class ActivatedBackbone(Backbone):
    """Backbone whose norms include their activation, with a level per stage.

    Args:
        num_levels: Stages.
        in_channels: Channels of the image.
        out_indices: Stages whose outputs are returned.
        frozen_stages: See :class:`~mmrev.models.backbone.Backbone`.
        norm_eval: See there.
        norm_cfg: Norm with activation; None for :data:`DEFAULT_NORM`.
        init_cfg: Initialization; by default Xavier, normal, with the gain of the activation, as published.
    """

    def __init__(self, num_levels: int, in_channels: int, out_indices: Union[int, Sequence[int]], frozen_stages: int,
                 norm_eval: Optional[bool], norm_cfg: Optional[dict], init_cfg: Union[dict, List[dict], None]):
        norm_cfg = dict(DEFAULT_NORM if norm_cfg is None else norm_cfg)
        self.default_init = self._default_init(norm_cfg)
        super().__init__(num_levels, out_indices, frozen_stages, norm_eval, init_cfg)
        self.norm_cfg = norm_cfg
        self.in_channels = in_channels

    _default_init = staticmethod(xavier_init)

    def _finish(self, channels: Sequence[int]) -> None:
        """Finish the constructor, given the channels of all stages."""
        self.channels = tuple(channels[i] for i in self.out_indices)
        self._freeze_stages()
