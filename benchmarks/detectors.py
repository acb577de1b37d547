"""Whole detectors in training: peak bytes per image with backbone, neck, heads, target assignment and losses.

Boxes and images are synthetic and the same for all. Proposals that match the boxes are added to those of the untrained
weights, as a trained network would propose them, so the heads get full samples of 512 regions per image, mask heads
128.
"""
from pathlib import Path
from typing import Dict, List, Tuple

import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmrev.testing import bytes_per_sample

MIB = 2**20
CONFIGS = Path(__file__).parents[1] / 'configs' / 'revbifpn'
DETECTORS = {
    'Faster R-CNN, RevBiFPN-S3': CONFIGS / 'faster_rcnn_revbifpn_s3.py',
    'Faster R-CNN, HRNetV2p-W32': 'mmdet::hrnet/faster-rcnn_hrnetv2p-w32-1x_coco.py',
    'Faster R-CNN, R50-FPN': 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    'Mask R-CNN, RevBiFPN-S3': CONFIGS / 'mask_rcnn_revbifpn_s3.py',
    'Mask R-CNN, HRNetV2p-W32': 'mmdet::hrnet/mask-rcnn_hrnetv2p-w32-1x_coco.py',
    'Mask R-CNN, R50-FPN': 'mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
}
NUM_BOXES = 8  # per image; COCO has 7.3
BOX_SIZES = (32, 400)  # pixels
GOOD_PROPOSALS = 24  # per box: in total more than the 128 that the sampler takes


def build_detector(config: str) -> nn.Module:
    """The detector of a config with random weights, in training mode."""
    from mmdet.registry import MODELS
    cfg = get_config(config) if '::' in str(config) else Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).train()
    add_good_proposals(model.rpn_head)
    return model


def add_good_proposals(rpn_head: nn.Module) -> None:
    """Let it propose the boxes as well, each several times and moved by up to two pixels."""
    loss_and_predict = rpn_head.loss_and_predict

    def with_good_proposals(features, samples, proposal_cfg=None):
        losses, proposals = loss_and_predict(features, samples, proposal_cfg=proposal_cfg)
        for i, sample in enumerate(samples):
            boxes = sample.gt_instances.bboxes.repeat(GOOD_PROPOSALS, 1)
            boxes = boxes + 4 * torch.rand_like(boxes) - 2
            good = InstanceData(bboxes=boxes, scores=torch.ones(len(boxes)), labels=torch.zeros(len(boxes)).long())
            proposals[i] = InstanceData.cat([good, proposals[i]])
        return losses, proposals

    rpn_head.loss_and_predict = with_good_proposals


def synthetic_batch(batch: int, shape: Tuple[int, int], num_classes: int = 80) -> Tuple[Tensor, list]:
    """Noise with boxes, and masks that fill them."""
    import numpy as np
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    generator = torch.Generator().manual_seed(0)
    height, width = shape
    samples = []
    for i in range(batch):
        sizes = torch.rand(NUM_BOXES, 2, generator=generator) * (BOX_SIZES[1] - BOX_SIZES[0]) + BOX_SIZES[0]
        corners = torch.rand(NUM_BOXES, 2, generator=generator) * (torch.tensor([width, height]) - sizes)
        boxes = torch.cat([corners, corners + sizes], dim=1)
        masks = np.zeros((NUM_BOXES, height, width), np.uint8)
        for mask, (left, top, right, bottom) in zip(masks, boxes.long().tolist()):
            mask[top:bottom, left:right] = 1
        sample = DetDataSample(metainfo=dict(img_id=i, img_shape=shape, ori_shape=shape, pad_shape=shape,
                                             batch_input_shape=shape, scale_factor=(1., 1.)))
        sample.gt_instances = InstanceData(
            bboxes=boxes, labels=torch.randint(num_classes, (NUM_BOXES, ), generator=generator),
            masks=BitmapMasks(masks, height, width))
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
        samples.append(sample)
    return torch.randn(batch, 3, height, width, generator=generator), samples


def train_step(model: nn.Module, batch: int, shape: Tuple[int, int]) -> None:
    """Forward, losses and backward; no gradients are left."""
    torch.manual_seed(1)  # the samplers draw random numbers
    images, samples = synthetic_batch(batch, shape)
    loss, _ = model.parse_losses(model(images, samples, mode='loss'))
    loss.backward()
    model.zero_grad()


def report(names: List[str], shape: Tuple[int, int]) -> Dict[str, float]:
    """Measure the detectors whose name contains one of ``names``; all if ``names`` is empty."""
    figures = {}
    print(f'Peak bytes alive per image in a training step of whole detectors at {shape[0]}x{shape[1]}: slope between 1 '
          f'and 2 images')
    for name, config in DETECTORS.items():
        if names and not any(part.lower() in name.lower() for part in names):
            continue
        model = build_detector(config)
        figures[name] = bytes_per_sample(lambda batch, model=model: train_step(model, batch, shape)) / MIB
        print(f'  {name:28s} {figures[name]:8.1f} MiB', flush=True)
    return figures
