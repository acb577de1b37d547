"""Folders of a few noisy images and a small reversible classifier: a training that is exact in several processes."""
from pathlib import Path

import cv2
import numpy as np


def write_dataset(root: Path, num_images: int = 8, size: int = 16) -> None:
    """Fill ``root/0`` and ``root/1`` with as many images each, of noise around another brightness."""
    rng = np.random.default_rng(0)
    for label in range(2):
        folder = root / str(label)
        folder.mkdir(parents=True)
        for index in range(num_images):
            image = rng.integers(80 * label, 80 * label + 160, (size, size, 3), np.uint8)
            cv2.imwrite(str(folder / f'{index}.png'), image)


def config_text(root: Path, batch_size: int, **variables) -> str:
    """A config of a small RevViT without anything random, for `write_dataset`'s images.

    Args:
        root: What `write_dataset` filled.
        batch_size: Of a process.
        **variables: Lines to add, as ``name=value``; they override.
    """
    head = f'ROOT, BATCH_SIZE = {str(root)!r}, {batch_size}\n'
    return head + _CONFIG + ''.join(f'{name} = {value!r}\n' for name, value in variables.items())


_CONFIG = """
_base_ = ['mmpretrain::_base_/default_runtime.py']
custom_imports = dict(imports=['mmrev'])
randomness = dict(seed=0)
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(mean=[127.5, 127.5, 127.5], std=[64., 64., 64.], num_classes=2),
    backbone=dict(
        type='mmrev.RevViT', img_size=16, patch_size=8, out_type='avg_featmap',
        arch=dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=32)),
    head=dict(type='LinearClsHead', num_classes=2, in_channels=32))
pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=BATCH_SIZE, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='CustomDataset', data_prefix=ROOT, pipeline=pipeline))
val_dataloader = train_dataloader
val_evaluator = dict(type='Accuracy', topk=1)
train_cfg = dict(by_epoch=True, max_epochs=4)
val_cfg = dict()
optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=1e-2, weight_decay=0.05), clip_grad=dict(max_norm=1.),
    paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0.))
param_scheduler = dict(type='LinearLR', start_factor=0.1, by_epoch=True, end=3)
default_hooks = dict(logger=dict(interval=1))
"""
