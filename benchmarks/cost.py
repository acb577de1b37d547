"""Cost of a training step of a config on images of its data set: parameters, memory and processor time."""
import time
from statistics import median
from typing import NamedTuple, Optional

import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmengine.runner import load_checkpoint
from torch import nn

from mmrev.apis.run import load_config
from mmrev.testing import bytes_per_sample


class Cost(NamedTuple):
    """Of forward, losses and backward.

    Attributes:
        parameters: Of the whole model, in millions.
        mib: Peak bytes of tensors alive per image, in MiB: the slope between two and four images.
        seconds: Of processor time for a batch, on one thread; the median of several steps.
    """
    parameters: float
    mib: float
    seconds: float


def measure(config: str, split: str, checkpoint: Optional[str] = None, options: Optional[dict] = None,
            steps: int = 5) -> Cost:
    """Measure training steps.

    Args:
        config: Path of the config.
        split: Split whose pipeline makes the images: ``'train'``, or ``'val'`` if that of training makes random sizes.
        checkpoint: Trained weights: a detector's heads work on what its region proposals find.
        options: As ``--cfg-options``.
        steps: How many steps are timed.
    """
    from mmengine.registry import DATASETS, MODELS
    cfg = load_config(config, options)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.get('data_preprocessor', cfg.model.get(
        'data_preprocessor')))).train()
    if checkpoint:
        load_checkpoint(model, str(checkpoint), map_location='cpu')
    dataset, batch_size = DATASETS.build(cfg[f'{split}_dataloader'].dataset), cfg.train_dataloader.batch_size
    samples = [dataset[index] for index in range(max(4, batch_size))]

    def step(images: int) -> None:
        train_step(model, samples[:images])

    mib = bytes_per_sample(step, 2, 4) / 2**20
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds = []
    for _ in range(steps):
        begin = time.process_time()
        step(batch_size)
        seconds.append(time.process_time() - begin)
    torch.set_num_threads(threads)
    return Cost(sum(p.numel() for p in model.parameters()) / 1e6, mib, median(seconds))


def train_step(model: nn.Module, samples: list) -> None:
    """Forward, losses and backward; no gradients are left."""
    torch.manual_seed(1)  # samplers and dropout draw random numbers
    data = model.data_preprocessor(pseudo_collate(samples), True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    model.zero_grad()
