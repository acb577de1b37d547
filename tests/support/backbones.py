"""A small form of every registered backbone, for tests that run over all of them."""
from contextlib import ExitStack
from typing import Dict, NamedTuple, Tuple
from unittest import mock

import torch
from torch import nn

from mmrev.models.backbones.iabn_resnet import BasicBlock, Bottleneck
from mmrev.registry import MODELS

HEIGHT, WIDTH = 64, 96  # pixels of the image


class Backbone(NamedTuple):
    """What a backbone promises in a small form.

    Attributes:
        cfg: Its config.
        levels: By number, as in ``out_indices``, the channels, height and width of each level of an image of
            64 x 96 pixels.
        frozen: By ``frozen_stages``, with what the names of the frozen weights and statistics begin.
        attributes: Of the class, for it to be small where no argument makes it so.
    """
    cfg: dict
    levels: Dict[int, Tuple[int, int, int]]
    frozen: Dict[int, Tuple[str, ...]]
    attributes: dict = {}


def pyramid(*channels: int, first: int = 0) -> Dict[int, Tuple[int, int, int]]:
    """Levels of strides 4, 8, 16 ..., numbered from ``first``."""
    return {first + i: (c, HEIGHT // 4 // 2**i, WIDTH // 4 // 2**i) for i, c in enumerate(channels)}


STEM = ('patch_embed.', 'pos_embed')
RESNET = {-1: (), 0: ('conv1.', 'bn1.'), 2: ('conv1.', 'bn1.', 'layer1.', 'layer2.')}
PRE_ACTIVATION = {-1: (), 0: ('stem.', 'norms.0.'),
                  2: ('stem.', 'norms.0.', 'stages.0.', 'norms.1.', 'stages.1.', 'norms.2.')}
REVVIT = dict(type='mmrev.RevViT', arch=dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=32),
              img_size=64, patch_size=8, out_indices=(0, 1, 2), out_type='featmap')
PFRESNET = dict(type='mmrev.PFResNet', depth=50, width=0.25)
PFVIT = dict(type='mmrev.PFViT', arch=dict(embed_dims=16, num_layers=4, num_heads=2), img_size=64, patch_size=8,
             out_indices=(0, 1, 3))
PIT = dict(type='mmrev.PiT', img_size=64, arch=dict(
    embed_dims=(8, 16, 32), num_layers=(2, 2, 2), num_heads=(1, 2, 4), patch_size=8, stride=4))
WIDER = dict(type='mmrev.WiderResNet', depth=16, out_indices=(1, 2, 3, 5))
NARROW = dict(stage_channels=((16, 16), (32, 32), (64, 64), (64, 128), (64, 128, 256), (128, 256, 512)))

BACKBONES = {
    'IABNDenseNet': Backbone(
        dict(type='mmrev.IABNDenseNet', depth=121),
        pyramid(32, 32, 32, 32),
        {-1: (), 0: ('stem.', ), 1: ('stem.', 'stages.0.', 'norms.0.', 'transitions.0.')},
        dict(arch_zoo={121: (8, (2, 2, 2, 2))})),
    'IABNResNet': Backbone(
        dict(type='mmrev.IABNResNet', depth=18), pyramid(64, 128, 256, 512), RESNET,
        dict(arch_zoo={18: (BasicBlock, (2, 1, 1, 1))})),
    'IABNResNet, bottleneck': Backbone(
        dict(type='mmrev.IABNResNet', depth=50), pyramid(256, 512, 1024, 2048), RESNET,
        dict(arch_zoo={50: (Bottleneck, (2, 1, 1, 1))})),
    'IABNResNeXt': Backbone(
        dict(type='mmrev.IABNResNeXt', depth=50, base_channels=(64, 64, 64)),
        pyramid(64, 128, 256, 512),
        PRE_ACTIVATION),
    'PFResNet, conv': Backbone(dict(PFRESNET, operation='conv'), pyramid(64, 128, 256, 512), RESNET),
    'PFResNet, max': Backbone(dict(PFRESNET, operation='max'), pyramid(64, 128, 256, 512), RESNET),
    'PFResNet, hybrid': Backbone(dict(PFRESNET, operation='hybrid'), pyramid(64, 128, 256, 512), RESNET),
    'PFResNet, InPlaceABN': Backbone(
        dict(PFRESNET, norm_cfg=dict(type='mmrev.InPlaceABN', activation='leaky_relu')),
        pyramid(64, 128, 256, 512), RESNET),
    'PFResNet, BatchNormAct': Backbone(
        dict(PFRESNET, norm_cfg=dict(type='mmrev.BatchNormAct')), pyramid(64, 128, 256, 512), RESNET),
    'PFViT': Backbone(
        PFVIT, dict.fromkeys(PFVIT['out_indices'], (16, 8, 12)), {-1: (), 0: STEM, 1: (*STEM, 'blocks.0.')}),
    'PiT': Backbone(
        PIT, {0: (8, 15, 23), 1: (16, 8, 12), 2: (32, 4, 6)},
        {-1: (), 0: STEM, 1: (*STEM, 'stages.0.'), 2: (*STEM, 'stages.0.', 'pools.0.', 'stages.1.')}),
    'PiT, max': Backbone(
        dict(PIT, operation='max'), {0: (8, 15, 23), 1: (16, 8, 12), 2: (32, 4, 6)}, {-1: (), 1: (*STEM, 'stages.0.')}),
    'RevBiFPN': Backbone(
        dict(type='mmrev.RevBiFPN', arch=dict(channels=(48, 8, 8, 12), num_extra_stages=1, num_blocks=1)),
        pyramid(48, 8, 8, 12),
        {-1: (), 0: (), 1: ('stages.couplings.0.', ), 3: tuple(f'stages.couplings.{i}.' for i in range(3))}),
    'RevMViT': Backbone(
        dict(type='mmrev.RevMViT', img_size=64, window_size=8, out_indices=(0, 1, 2),
             arch=dict(embed_dims=8, num_layers=7, num_heads=1, downscale_indices=(2, 4))),
        pyramid(16, 32, 64),
        {-1: (), 0: ('patch_embed.', ), 1: ('patch_embed.', 'blocks.couplings.0.', 'blocks.couplings.1.')}),
    'RevSwin': Backbone(
        dict(type='mmrev.RevSwin', window_size=4, out_indices=(0, 1, 2),
             arch=dict(embed_dims=8, depths=(1, 2, 3), num_heads=(1, 2, 4))),
        pyramid(8, 16, 64),
        {-1: (), 0: ('patch_embed.', ), 2: ('patch_embed.', *(f'blocks.couplings.{i}.' for i in range(3)))}),
    'RevViT': Backbone(
        REVVIT, dict.fromkeys(range(3), (32, 8, 12)), {-1: (), 0: STEM, 1: (*STEM, 'layers.couplings.0.')}),
    'RevViT, class token': Backbone(
        dict(REVVIT, with_cls_token=True), dict.fromkeys(range(3), (32, 8, 12)),
        {1: (*STEM, 'cls_token', 'layers.couplings.0.')}),
    'RevViT, max': Backbone(
        dict(REVVIT, operation='max'), dict.fromkeys(range(3), (32, 8, 12)),
        {-1: (), 2: (*STEM, 'layers.couplings.0.', 'layers.couplings.1.')}),
    'WiderResNet': Backbone(
        WIDER, pyramid(32, 64, 128, first=1) | {5: (512, 2, 3)}, PRE_ACTIVATION, NARROW),
    'WiderResNet, A2': Backbone(
        dict(WIDER, a2=True), pyramid(32, 64, 128, first=1) | {5: (512, 2, 3)}, PRE_ACTIVATION, NARROW),
}


def kind(name: str) -> type:
    """The class of an entry of :data:`BACKBONES`.

    Raises:
        LookupError: If mmrev has registered no such class.
    """
    path = BACKBONES[name].cfg['type']
    found = MODELS.module_dict.get(path.removeprefix('mmrev.'))
    if found is None:
        raise LookupError(f'`BACKBONES[{name!r}]` names `{path}`, which is not in `mmrev.registry.MODELS`: decorate '
                          'the class with `@MODELS.register_module()` of mmrev.registry, and export it in '
                          'mmrev/models/backbones/__init__.py')
    return found


def build(name: str, seed: int = 0, **kwargs) -> nn.Module:
    """The backbone of an entry, with no weight at zero or one, so that every gradient counts."""
    entry = BACKBONES[name]
    torch.manual_seed(seed)
    with ExitStack() as stack:
        for attribute, value in entry.attributes.items():
            stack.enter_context(mock.patch.object(kind(name), attribute, value))
        model = MODELS.build({**entry.cfg, **kwargs})
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model
