"""A COCO-format set of a few drawn squares and a small detector: what the tests of the tools train on."""
import json
from pathlib import Path
from typing import Dict

import cv2
import numpy as np

CLASSES = ('dark', 'bright')


def write_dataset(root: Path, num_images: int = 4, size: int = 64, seed: int = 0) -> Path:
    """Draw `num_images` images with two squares each, and their annotations.

    Args:
        root: Folder to fill; gets ``images/`` and ``annotations.json``.
        num_images: How many images.
        size: Height and width in pixels.
        seed: Of the drawing.

    Returns:
        The annotation file.
    """
    rng = np.random.default_rng(seed)
    (root / 'images').mkdir(parents=True)
    images, annotations = [], []
    for index in range(num_images):
        canvas = np.full((size, size, 3), 128, np.uint8)
        for label, colour in enumerate((20, 235)):
            side = int(rng.integers(size // 4, size // 2))
            x, y = (int(v) for v in rng.integers(0, size - side, 2))
            canvas[y:y + side, x:x + side] = colour
            annotations.append(dict(id=len(annotations) + 1, image_id=index, category_id=label + 1, iscrowd=0,
                                    bbox=[x, y, side, side], area=side * side))
        cv2.imwrite(str(root / 'images' / f'{index}.png'), canvas)
        images.append(dict(id=index, file_name=f'{index}.png', height=size, width=size))
    categories = [dict(id=label + 1, name=name) for label, name in enumerate(CLASSES)]
    annotation_file = root / 'annotations.json'
    annotation_file.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    return annotation_file


def config_text(data_root: Path, **variables) -> str:
    """A config of a narrow Faster R-CNN on RevBiFPN-S0 for `write_dataset`'s set, built on mmdet's bases.

    Args:
        data_root: What `write_dataset` filled.
        **variables: Lines to add, as ``name=value``; they override.
    """
    settings: Dict[str, object] = dict(DATA_ROOT=str(data_root) + '/', CLASSES=CLASSES)
    head = ''.join(f'{name} = {value!r}\n' for name, value in settings.items())
    tail = ''.join(f'{name} = {value!r}\n' for name, value in variables.items())
    return _BASES + head + _CONFIG + tail


_BASES = """
_base_ = ['mmdet::_base_/models/faster-rcnn_r50_fpn.py', 'mmdet::_base_/datasets/coco_detection.py',
          'mmdet::_base_/schedules/schedule_1x.py', 'mmdet::_base_/default_runtime.py']
"""

_CONFIG = """
metainfo = dict(classes=CLASSES)
model = dict(
    data_preprocessor=dict(pad_size_divisor=32),
    backbone=dict(_delete_=True, type='mmrev.RevBiFPN', arch='s0', out_indices=(0, 1, 2, 3)),
    neck=dict(in_channels=[48, 64, 80, 160], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=32, num_classes=len(CLASSES))))
train_dataloader = dict(
    batch_size=2, num_workers=0, persistent_workers=False,
    dataset=dict(data_root=DATA_ROOT, ann_file='annotations.json', data_prefix=dict(img='images/'), metainfo=metainfo,
                 pipeline=[dict(type='LoadImageFromFile', backend_args=None),
                           dict(type='LoadAnnotations', with_bbox=True),
                           dict(type='Resize', scale=(64, 64), keep_ratio=True),
                           dict(type='PackDetInputs')]))
val_dataloader = dict(
    num_workers=0, persistent_workers=False,
    dataset=dict(data_root=DATA_ROOT, ann_file='annotations.json', data_prefix=dict(img='images/'), metainfo=metainfo,
                 pipeline=[dict(type='LoadImageFromFile', backend_args=None),
                           dict(type='Resize', scale=(64, 64), keep_ratio=True),
                           dict(type='LoadAnnotations', with_bbox=True),
                           dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape',
                                                                 'scale_factor'))]))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=DATA_ROOT + 'annotations.json')
test_evaluator = val_evaluator
custom_imports = dict(imports=['mmrev'])
train_cfg = dict(max_epochs=1)
param_scheduler = []
"""
