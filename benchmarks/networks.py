"""The networks that the benchmarks measure, and one training step.

On the meta device nothing is computed and nothing takes memory, but every tensor has its size: the bytes alive are
exactly those of a CPU run (checked by `tests/test_benchmarks`), for networks and batches of any size. Only attention
has to be told to use the operator of the CPU.
"""
from functools import partial
from pathlib import Path
from typing import Callable, NamedTuple, Sequence, Tuple, Union
from unittest.mock import patch

import bare
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmrev.models.backbones import PFViT, RevBiFPN, RevMViT, RevSwin, RevViT
from mmrev.models.blocks import MBConv
from mmrev.reversible import ReversibleSequence
from mmrev.testing import bytes_per_sample, set_reversible

CONFIGS = Path(__file__).parents[1] / 'configs' / 'revbifpn'
MODES = ('reversible', 'plain', 'checkpoint')
TRANSFORMERS = {  # by the papers' sizes
    'revvit-s': partial(RevViT, 'deit-small'),
    'revvit-b': partial(RevViT, 'base'),
    'revvit-l': partial(RevViT, 'large'),
    'revswin-t': partial(RevSwin, 'tiny'),
    'revmvit-t': partial(RevMViT, 'tiny'),
}
CLASSIFIER_SIZES = (224, 256, 256, 288, 320, 352, 352)  # pixels, S0 ... S6
EFFICIENTNET_SIZES = (224, 240, 260, 300, 380, 456, 528, 600)  # pixels, B0 ... B7
MANY = (32, 64)  # images: so many that the activations, not the weights' gradients, determine the peak


class Network(NamedTuple):
    """A network to measure: its name, how to build it, and the image's height and width in pixels."""
    name: str
    build: Callable[[], nn.Module]
    shape: Tuple[int, int]


def build_backbone(arch: str, mode: str) -> nn.Module:
    """A key of ``TRANSFORMERS`` or a size of RevBiFPN, in one of ``MODES``."""
    torch.manual_seed(0)
    return in_mode(TRANSFORMERS[arch]() if arch in TRANSFORMERS else RevBiFPN(arch), mode)


def in_mode(model: nn.Module, mode: str) -> nn.Module:
    """The model in one of ``MODES``, or ``'bare'``: reversible without any safety.

    ``checkpoint`` recomputes the same blocks that reversibility recomputes: RevBiFPN's MBConvs, the others' couplings.
    """
    set_reversible(model, mode == 'reversible')
    for module in model.modules():
        if mode == 'bare' and isinstance(module, ReversibleSequence):
            module.forward = partial(chained, [bare.run_steps(c.steps()) for c in module.couplings])
        elif mode == 'checkpoint' and isinstance(module, MBConv):
            module.forward = partial(checkpoint, module.forward, use_reentrant=False)
        elif mode == 'checkpoint' and isinstance(module, ReversibleSequence) and not isinstance(model, RevBiFPN):
            blocks = [ReversibleSequence([c], False) for c in module.couplings]
            module.forward = partial(chained, [partial(checkpoint, block, use_reentrant=False) for block in blocks])
    return model


def chained(blocks: Sequence[Callable], *streams: torch.Tensor) -> Tuple[torch.Tensor, ...]:
    """One block after another."""
    for block in blocks:
        streams = block(*streams)
    return streams


def title(arch: str) -> str:
    """What the paper calls the network."""
    names = {'revvit': 'RevViT', 'revswin': 'Rev-Swin', 'revmvit': 'Rev-MViT'}
    kind, size = arch.split('-') if arch in TRANSFORMERS else ('revbifpn', arch)
    return f'{names.get(kind, "RevBiFPN")}-{size.upper()}'


def build_classifier(size: int, mode: str) -> nn.Module:
    """RevBiFPN-S``size`` with neck and head as its ImageNet config has it, ``'reversible'`` or ``'plain'``."""
    from mmengine.config import Config
    from mmengine.logging import MMLogger
    from mmengine.registry import DefaultScope
    from mmpretrain.registry import MODELS
    MMLogger.get_current_instance().setLevel('WARNING')
    cfg = Config.fromfile(CONFIGS / f'revbifpn-s{size}_8xb128_in1k.py')
    with DefaultScope.overwrite_default_scope('mmpretrain'):  # whatever ran in this process before
        return set_reversible(MODELS.build(cfg.model), mode == 'reversible')


def build_efficientnet(size: int) -> nn.Module:
    """EfficientNet-B``size`` of timm."""
    try:
        import timm
    except ImportError as error:
        raise SystemExit('EfficientNet comes from timm: pip install timm, or pip install mmrev[benchmark]') from error
    return timm.create_model(f'efficientnet_b{size}')


def backbone(arch: str, height: int, width: int, mode: str = 'reversible') -> Network:
    return Network(f'{title(arch)} backbone, {mode}', partial(build_backbone, arch, mode), (height, width))


def classifier(size: int, mode: str = 'reversible') -> Network:
    resolution = CLASSIFIER_SIZES[size]
    return Network(f'RevBiFPN-S{size}, {mode}', partial(build_classifier, size, mode), (resolution, resolution))


def efficientnet(size: int) -> Network:
    resolution = EFFICIENTNET_SIZES[size]
    return Network(f'EfficientNet-B{size}', partial(build_efficientnet, size), (resolution, resolution))


def transformers(side: int = 224) -> Tuple[Network, ...]:
    """ViT-S and ViT-S-max, and both with the two streams of RevViT, reversible and under plain autograd."""
    names = dict(attention='ViT-S', max='ViT-S-max')
    plain = [Network(name, partial(PFViT, 's', operation, side), (side, side)) for operation, name in names.items()]
    return (*plain, *(
        Network(f'Rev{name}, {mode}',
                partial(RevViT, 'deit-small', side, operation=operation, reversible=mode == 'reversible'), (side, side))
        for operation, name in names.items() for mode in ('plain', 'reversible')))


def build_on(device: str, network: Network) -> nn.Module:
    with torch.device(device):
        return network.build()


def images(network: Network, batch: int, device: str) -> torch.Tensor:
    make = torch.empty if device == 'meta' else torch.randn
    return make(batch, 3, *network.shape, device=device)


_attention = F.scaled_dot_product_attention


def _attention_of_cpu(q, k, v, attn_mask=None, dropout_p=0.):
    """On the meta device, scaled dot-product attention by the operator that the CPU would choose.

    By default, the meta device forms the matrix of weights, which the CPU's fused operator does not.
    """
    if q.is_meta:
        from torch.nn.attention import SDPBackend  # since PyTorch 2.3
        small = [None if x is None else torch.empty_like(x[:1, :1], device='cpu', requires_grad=x.requires_grad)
                 for x in (q, k, v, attn_mask)]
        if torch._fused_sdp_choice(*small, dropout_p) == int(SDPBackend.FLASH_ATTENTION):
            fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
            return fused(q, k, v, dropout_p, attn_mask=attn_mask)[0]
    return _attention(q, k, v, attn_mask, dropout_p)


def train_step(model: nn.Module, x: torch.Tensor) -> None:
    """Forward, backward of the outputs' sum, and no gradients left."""
    with patch.object(F, 'scaled_dot_product_attention', _attention_of_cpu):
        total(model(x)).backward()
    model.zero_grad()


def total(outputs: Union[torch.Tensor, Tuple[torch.Tensor, ...]]) -> torch.Tensor:
    return sum(y.sum() for y in (outputs if isinstance(outputs, tuple) else (outputs, )))


def bytes_per_image(network: Network, device: str = 'meta', batches: Tuple[int, int] = MANY) -> float:
    """Peak bytes alive per image in a training step in float32: the slope between two batches, so without weights."""
    model = build_on(device, network)
    return bytes_per_sample(lambda batch: train_step(model, images(network, batch, device)), *batches)
