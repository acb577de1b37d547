"""Predictions of mmseg's segmentors: over scales and flips, drawn or as maps of labels and probabilities."""
from typing import TYPE_CHECKING, Any, Dict, Sequence

import numpy as np
from mmengine.config import Config

from mmrev.checkpoints import mismatch
from mmrev.problems import ProblemError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


class Segmenter:
    """Predict image by image.

    Args:
        cfg: Config of the segmentor. ``scales``, ``flip`` and ``fusion`` of its ``test_cfg`` are the defaults.
        checkpoint: Checkpoint of the segmentor.
        out_format: ``'palette'`` for the labels as an indexed image in the colors of the classes, ``'raw'`` for the
            labels in gray, ``'prob'`` for these and the probabilities, times 255.
        **fusion: Arguments of :func:`mmrev.models.segmentors.predict_fused`.
    """

    def __init__(self, cfg: Config, checkpoint: str, out_format: str = '', **fusion: Any):
        from mmengine.dataset import Compose
        from mmengine.device import get_device
        from mmengine.model import revert_sync_batchnorm
        from mmengine.registry import MODELS, init_default_scope
        from mmengine.runner import load_checkpoint
        from mmseg.visualization import SegLocalVisualizer

        from mmrev.models.segmentors.multi_scale import fusion_options
        init_default_scope('mmseg')
        self.model = revert_sync_batchnorm(MODELS.build(cfg.model))
        loaded = load_checkpoint(self.model, checkpoint, 'cpu')
        other = mismatch(self.model, loaded)
        if other:
            raise ValueError(f'the weights are of another model: {other}')
        self.model = self.model.to(get_device()).eval()
        dataset = _inner(cfg.test_dataloader.dataset)
        self.pipeline = Compose([step for step in dataset.pipeline if 'LoadAnnotations' not in str(step['type'])])
        self.classes, self.palette = _classes(dataset, loaded.get('meta') or {}, self.model.num_classes)
        self.fusion = {**fusion_options(cfg.model.get('test_cfg') or {}), **fusion}
        if self.fusion and self.model.out_channels == 1:
            raise ProblemError('scales, flips and fusion need an output channel per class, and the model has one',
                               'Leave out --scales, --flip and --fusion, or train with decode_head.out_channels=2')
        self.out_format = out_format
        self.visualizer = SegLocalVisualizer(name='predict', alpha=0.6)
        self.visualizer.set_dataset_meta(classes=self.classes, palette=self.palette)  # its constructor swaps the two

    def __call__(self, file: str) -> tuple:
        """Return a summary, values by name, the drawn image (RGB), and maps to write instead, by suffix."""
        import torch
        from mmcv.image import imread
        from mmengine.dataset import pseudo_collate

        from mmrev.models.segmentors import predict_fused
        with torch.no_grad():
            data = self.model.data_preprocessor(pseudo_collate([self.pipeline(dict(img_path=file))]), False)
            if self.fusion:
                sample, = predict_fused(self.model, **data, **self.fusion)
            else:
                sample, = self.model.predict(**data)
        labels = sample.pred_sem_seg.data[0].cpu().numpy().astype(np.uint8)
        counts = np.bincount(labels.ravel(), minlength=len(self.classes)) / labels.size
        shares = {self.classes[i]: round(float(counts[i]), 4) for i in np.argsort(-counts) if counts[i]}
        summary = ', '.join(f'{share:.0%} {name}' for name, share in list(shares.items())[:5])
        if self.out_format:
            return summary, dict(shares=shares), None, self._maps(labels, sample)
        image = imread(file, channel_order='rgb')
        legible = min(image.shape[:2]) >= 256  # mmseg scales the names of the classes with the image
        self.visualizer.add_datasample('', image, sample.cpu(), draw_gt=False, with_labels=legible)
        return summary, dict(shares=shares), self.visualizer.get_image(), {}

    def _maps(self, labels: np.ndarray, sample: Any) -> Dict[str, 'Image']:
        from PIL import Image
        image = Image.fromarray(labels)
        if self.out_format == 'palette':
            image = image.convert('P')
            image.putpalette(np.array(self.palette, np.uint8).ravel().tolist())
        if self.out_format != 'prob':
            return {'.png': image}
        confidence = _confidence(sample).cpu().numpy()
        return {'.png': image, '_prob.png': Image.fromarray((confidence * 255).astype(np.uint8))}


def _confidence(sample: Any) -> 'Tensor':
    """The probability of each pixel's label, ``(H, W)``."""
    if 'pred_confidence' in sample:  # over scales and flips
        return sample.pred_confidence.data[0]
    logits = sample.seg_logits.data
    if len(logits) > 1:
        return logits.softmax(0).amax(0)
    foreground = logits[0].sigmoid()
    return foreground.where(sample.pred_sem_seg.data[0] == 1, 1 - foreground)


def _inner(dataset: dict) -> dict:
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    return dataset


def _classes(dataset: dict, meta: dict, number: int) -> tuple:
    """Names and colors of the classes: those of the checkpoint, else those of the config's data set."""
    from mmengine.registry import DATASETS
    known = meta.get('dataset_meta') or {
        **getattr(DATASETS.get(dataset['type']), 'METAINFO', {}), **dataset.get('metainfo', {})}
    classes: Sequence[str] = known.get('classes') or [str(i) for i in range(number)]
    palette = known.get('palette') or np.random.RandomState(0).randint(0, 256, (len(classes), 3)).tolist()
    if len(classes) != number:
        raise ProblemError(f'the model has {number} classes, the data set {len(classes)}',
                           'Give the checkpoint that was trained with this config')
    return classes, palette
