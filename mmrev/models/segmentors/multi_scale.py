"""Predictions over scales and flips, fused as the published InPlace-ABN (arXiv:1712.02616) does it."""
from typing import Iterator, List, Sequence, Tuple

import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.models.segmentors import EncoderDecoder
from torch import Tensor

from mmrev.registry import MODELS

from ..backbone import check_choice


class _Mean:
    """The class with the greatest mean probability."""

    def __init__(self):
        self.total, self.number = 0., 0

    def add(self, probabilities: Tensor) -> None:
        self.total, self.number = self.total + probabilities, self.number + 1

    def result(self) -> Tuple[Tensor, Tensor]:
        confidence, labels = self.total.max(1)
        return labels, confidence / self.number


class _Voting:
    """The class that most passes choose, the first of several; its mean probability in these passes."""

    def __init__(self):
        self.votes, self.total = 0., 0.

    def add(self, probabilities: Tensor) -> None:
        confidence, labels = probabilities.max(1, keepdim=True)
        zeros = torch.zeros_like(probabilities)
        self.votes = self.votes + zeros.scatter(1, labels, 1.)
        self.total = self.total + zeros.scatter(1, labels, confidence)

    def result(self) -> Tuple[Tensor, Tensor]:
        votes, labels = self.votes.max(1, keepdim=True)
        return labels[:, 0], (self.total.gather(1, labels) / votes)[:, 0]


class _Max:
    """The class with the greatest probability of any pass."""

    def __init__(self):
        self.greatest = 0.

    def add(self, probabilities: Tensor) -> None:
        self.greatest = probabilities.clamp(min=self.greatest)

    def result(self) -> Tuple[Tensor, Tensor]:
        confidence, labels = self.greatest.max(1)
        return labels, confidence


FUSIONS = dict(mean=_Mean, voting=_Voting, max=_Max)


def predict_fused(model: EncoderDecoder, inputs: Tensor, data_samples: Sequence, scales: Sequence[float] = (1., ),
                  flip: bool = False, fusion: str = 'mean') -> List:
    """Predict at several scales, and mirrored, and fuse the probabilities of all passes.

    Passes are fused at the size of the input. The labels are then resized to that of the original image by taking the
    nearest point. A pass is padded at the right and at the bottom to multiples of the data preprocessor's
    ``size_divisor`` in tests.

    Args:
        model: A segmentor of mmseg with one output channel per class.
        inputs: Normalized images, ``(B, C, H, W)``.
        data_samples: Theirs; ``ori_shape`` and the padding are read.
        scales: Sizes of the passes relative to the input.
        flip: Predict each scale mirrored as well.
        fusion: ``'mean'`` of the probabilities, ``'voting'`` of the passes' classes, or ``'max'``, the class of the
            greatest probability.

    Returns:
        The data samples with ``pred_sem_seg``, the labels, and ``pred_confidence``, their probabilities, ``(1, H, W)``
        each.

    Raises:
        ValueError: If the model has one output channel for two classes, or for another fusion.
    """
    check_choice('fusion', fusion, tuple(FUSIONS))
    if model.out_channels == 1:
        raise ValueError('fusion needs an output channel per class: give the decode head `out_channels=2`')
    if not scales or min(scales) <= 0:
        raise ValueError(f'`scales` must be positive, got {scales}')
    fused = FUSIONS[fusion]()
    for logits in _passes(model, inputs, [sample.metainfo for sample in data_samples], scales, flip):
        fused.add(logits.softmax(1))
    labels, confidence = fused.result()
    for i, sample in enumerate(data_samples):
        sample.set_data(dict(pred_sem_seg=PixelData(data=_restore(labels[i], sample.metainfo)),
                             pred_confidence=PixelData(data=_restore(confidence[i], sample.metainfo))))
    return list(data_samples)


def _passes(model: EncoderDecoder, inputs: Tensor, metainfo: Sequence[dict], scales: Sequence[float], flip: bool
            ) -> Iterator[Tensor]:
    """Logits of each pass, at the size of the input and not mirrored."""
    height, width = size = tuple(inputs.shape[2:])
    divisor = (getattr(model.data_preprocessor, 'test_cfg', None) or {}).get('size_divisor') or 1
    for scale in scales:
        rows, columns = round(height * scale), round(width * scale)
        x = inputs if scale == 1 else F.interpolate(inputs, (rows, columns), mode='bilinear', align_corners=False)
        x = F.pad(x, (0, -columns % divisor, 0, -rows % divisor))
        padded = x.shape[2:] != (rows, columns)
        # A head resizes its logits to these sizes; that of the input saves a second interpolation.
        sides = tuple(x.shape[2:]) if padded else size
        meta = [dict(entry, img_shape=sides, pad_shape=sides) for entry in metainfo]
        for mirrored in (False, True)[:1 + flip]:
            logits = model.inference(x.flip(3) if mirrored else x, [dict(entry) for entry in meta])
            logits = logits.flip(3) if mirrored else logits
            logits = logits[:, :, :rows, :columns] if padded else logits
            if logits.shape[2:] != size:  # padded, or of sliding windows
                logits = F.interpolate(logits, size, mode='bilinear', align_corners=model.align_corners)
            yield logits


def _restore(x: Tensor, meta: dict) -> Tensor:
    """Remove the padding and resize ``(H, W)`` to ``(1, *ori_shape)``."""
    left, right, top, bottom = meta.get('img_padding_size', meta.get('padding_size', [0] * 4))
    height, width = x.shape
    x = x[None, None, top:height - bottom, left:width - right]
    return F.interpolate(x.float(), meta['ori_shape'][:2], mode='nearest-exact')[0].to(x.dtype)


@MODELS.register_module()
class MultiScaleEncoderDecoder(EncoderDecoder):
    """mmseg's ``EncoderDecoder``, tested at several scales.

    ``test_cfg`` may have ``scales``, ``flip`` and ``fusion`` besides ``mode``; see :func:`predict_fused`. All other
    arguments and the training are mmseg's.
    """

    def predict(self, inputs: Tensor, data_samples: Sequence = None) -> List:
        if data_samples is None or self.out_channels == 1:
            return super().predict(inputs, data_samples)
        return predict_fused(self, inputs, data_samples, **fusion_options(self.test_cfg))


def fusion_options(test_cfg: dict) -> dict:
    """The arguments of :func:`predict_fused` in a ``test_cfg``."""
    return {key: test_cfg[key] for key in ('scales', 'flip', 'fusion') if key in test_cfg}
