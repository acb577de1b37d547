"""Malformed inputs of `mmrev`, made from templates: mutations of two configs, their data, images and checkpoints.

A fault is to end in at most three lines, with status 2 and nothing written. `LEGITIMATE` names the mutations that
people may mean.
"""
import copy
import json
import math
import os
import random
import re
import shutil
from pathlib import Path
from typing import Any, Callable, Collection, Dict, Iterator, List, NamedTuple, Sequence, Tuple

import torch
from mmengine.config import Config

from support import toy_classification, toy_detection
from support.commands import forked

NAN, INF = math.nan, math.inf
DET, CLS = 'det', 'cls'  # the two configs


# Mutations that people may mean: what mmengine has a default for, what the command line decides, what hosts document.
LEGITIMATE = {
    *(f'cls: {key} = None' for key in ('custom_hooks', 'log_processor', 'default_hooks', 'param_scheduler', 'launcher',
                                       'custom_imports', 'resume', 'optim_wrapper.paramwise_cfg')),
    'cls: param_scheduler = []',
    *(f'cls: {key} deleted' for key in ('custom_hooks', 'default_hooks', 'param_scheduler', 'param_scheduler.by_epoch',
                                        'param_scheduler.start_factor', 'custom_imports', 'model.data_preprocessor')),
    'cls: launcher = 3', 'cls: launcher = {}', 'cls: launcher = []', 'cls: launcher = [[]]', "cls: launcher = 'junk'",
    'cls: randomness deleted',
    "cls: custom_keys 'backbon'", "cls: custom_keys ''",  # a part of a name is enough
    'cls: optim_wrapper.paramwise_cfg.norm_decay_mult deleted', 'cls: optim_wrapper.paramwise_cfg deleted',
    'cls: model.head.topk = (1, 9)',  # only for cal_acc
    'cls: model.backbone.patch_size = 64', 'cls: model.backbone.img_size = 7',  # images of any size
    'det: val_evaluator.metric = []', 'cls: train_dataloader.sampler.shuffle deleted',
    'det: scale (1,)', 'det: model.rpn_head.bbox_coder.target_stds = [1.0]',  # the hosts broadcast
    'det: model.rpn_head.bbox_coder.target_means = [1.0]',
    # defaults of the hosts
    *(f'cls: {key} = {{}}' for key in ('optim_wrapper.paramwise_cfg', 'model.data_preprocessor', 'custom_imports',
                                       'model.backbone.norm_cfg', 'env_cfg')),
    *(f'cls: {key} deleted' for key in ('optim_wrapper.optimizer.lr', 'train_dataloader.batch_size')),
    *(f'cls: {key} = None' for key in ('visualizer', 'default_hooks.checkpoint')), 'cls: custom_hooks = []',
    *(f'det: train_dataloader.{key}' for key in ('dataset.filter_cfg = None', 'dataset.filter_cfg = {}',
                                                 'batch_sampler = None')),
    'det: val_evaluator.metric deleted', 'det: val_dataloader.dataset.pipeline.2 deleted',  # the metric reads its file
    'cls: model.data_preprocessor.mean = 3', 'cls: model.data_preprocessor.mean deleted',
    *(f'checkpoint: random_states = {value}' for value in ('None', '[]', '{}')),  # those of older versions have none
    'cls: default_hooks.logger.interval deleted', 'cls: log_processor = {}',
    'cls: model.data_preprocessor = []', 'cls: model.data_preprocessor.mean = [1.0]',
    'det: train_dataloader.dataset.pipeline.2 deleted',  # the images have one size
    *(f'cls: model_wrapper_cfg = {value}' for value in ('None', "'junk'", '{}', '[]', '[[]]', '3')),  # for processes
    'cls: load_from = None', 'cls: val_cfg = {}', 'cls: default_hooks = {}', 'cls: model.backbone.img_size deleted',
    'cls: optim_wrapper.clip_grad deleted', 'cls: val_evaluator = []',
    'cls: val_evaluator.topk deleted', 'cls: custom_imports = []',
    'cls: model.data_preprocessor = None',
    'annotations: annotations.id = -7',
    'image: a broken link, classes', 'image: a pipe, classes',  # mmpretrain lists the images that are there
}


class Fault(NamedTuple):
    """An input: what differs from a good one, and the command that meets it."""

    name: str
    base: str
    break_config: Callable[[dict], Any] = lambda cfg: None  # changes the config in place
    break_files: Callable[[Path], Any] = lambda folder: None  # changes files of a folder with data
    arguments: Sequence[str] = ('train', 'config.py')


def set_(path: str, value: Any) -> Callable[[dict], None]:
    """Set an entry of a config; sections that are not there are made."""

    def change(cfg):
        *parents, last = path.split('.')
        for key in parents:
            cfg = cfg[int(key)] if isinstance(cfg, (list, tuple)) else cfg.setdefault(key, {})
        cfg[int(last) if isinstance(cfg, (list, tuple)) else last] = value

    return change


def delete(path: str) -> Callable[[dict], None]:
    """Delete an entry of a config."""

    def change(cfg):
        *parents, last = path.split('.')
        for key in parents:
            cfg = cfg[int(key)] if isinstance(cfg, (list, tuple)) else cfg[key]
        del cfg[int(last) if isinstance(cfg, (list, tuple)) else last]

    return change


def rename(path: str, name: str) -> Callable[[dict], None]:
    """Rename a key of a config."""

    def change(cfg):
        *parents, last = path.split('.')
        for key in parents:
            cfg = cfg[int(key)] if isinstance(cfg, (list, tuple)) else cfg[key]
        cfg[name] = cfg.pop(last)

    return change


def both(*changes: Callable) -> Callable:
    """Several changes, one after another."""
    return lambda subject: [change(subject) for change in changes]


# ---------------------------------------------------------------------------------------------------- values
NUMBERS: Dict[str, Sequence[Tuple[str, Sequence[Any]]]] = {
    CLS: [
        ('optim_wrapper.optimizer.lr', (NAN, INF, -INF, -1., 'x', None, [], {}, [1.])),
        ('optim_wrapper.optimizer.weight_decay', (NAN, INF, -1., 'x', None, [])),
        ('optim_wrapper.optimizer.eps', (NAN, INF, -1., 'x', None)),
        ('optim_wrapper.optimizer.betas', ((0.9, ), (2., 3.), 'x', NAN, (NAN, NAN), (-1, 0.9), None, 0.9)),
        ('optim_wrapper.clip_grad.max_norm', (NAN, -1., 'x', None, [])),
        ('optim_wrapper.accumulative_counts', (0, -1, 'x', 1.5, NAN, None)),
        ('optim_wrapper.paramwise_cfg.norm_decay_mult', (NAN, INF, -1., 'x', [])),
        ('optim_wrapper.paramwise_cfg.bias_lr_mult', (NAN, -2., 'x')),
        ('train_dataloader.batch_size', (0, -1, 'x', 1.5, None, [], NAN)),
        ('val_dataloader.batch_size', (0, -1, 'x', 1.5, [])),
        ('train_dataloader.num_workers', (-1, 'x', 1.5, NAN, [])),
        ('train_dataloader.sampler', (dict(type='RepeatAugSampler', num_repeats=0), )),
        ('train_cfg.max_epochs', (0, -1, 'x', 1.5, NAN, None, INF, [], {})),
        ('train_cfg.val_interval', (0, -1, 'x', NAN, None, [])),
        ('train_cfg.val_begin', ('x', NAN, [])),
        ('train_cfg.dynamic_intervals', ('x', [(1, 'x')], [(1, 0)])),
        ('randomness.seed', (-1, 'x', 1.5, NAN, [])),
        ('model.data_preprocessor.mean', ('x', [], [1.], [NAN] * 3, [1, 2, 'x'], 3)),
        ('model.data_preprocessor.std', ([0., 0., 0.], [0., 1., 1.], 'x', [NAN] * 3, [-1.] * 3, [])),
        ('data_preprocessor.std', ([0., 1., 1.], )),
        ('model.data_preprocessor.num_classes', ('x', NAN)),
        ('model.backbone.img_size', (0, -16, 'x', 1.5, None, [], NAN, 7)),
        ('model.backbone.patch_size', (0, -1, 'x', None, [], 64)),
        ('model.backbone.out_type', ('x', 3, None)),
        ('model.backbone.drop_path_rate', (-1., 2., 'x', NAN)),
        ('model.backbone.drop_rate', (-1., 2., 'x')),
        ('model.backbone.out_indices', ((9, ), (), 'x', (-9, ), (1, 0))),
        ('model.backbone.frozen_stages', (99, 'x', -9, 1.5)),
        ('model.backbone.norm_eval', ('x', 'Flase')),
        ('model.backbone.reversible', ('x', 'Flase')),
        ('model.backbone.arch', ('x', {}, None, 3, [], dict(embed_dims=16))),
        ('model.backbone.arch.num_heads', (0, 3, -1, 'x', NAN)),
        ('model.backbone.arch.num_layers', (0, -1, 'x', 1.5)),
        ('model.backbone.arch.feedforward_channels', (0, -1, 'x', 1.5)),
        ('model.backbone.norm_cfg', (dict(type='LN', eps=NAN), dict(type='LN', eps=-1.), dict(type='x'), 'x', 3, {})),
        ('model.head.num_classes', (0, -1, 'x', NAN, 1.5, None, 1)),
        ('model.head.in_channels', (0, -1, 'x', 33, None)),
        ('model.head.topk', ((1, 9), 'x', (0, ), (-1, ), NAN)),
        ('model.head.loss', (dict(type='x'), 3, dict(type='CrossEntropyLoss', loss_weight='x'),
                             dict(type='CrossEntropyLoss', loss_weight=NAN))),
        ('val_evaluator.topk', ((1, 9), 'x', (0, ), NAN, -1, ())),
        ('val_evaluator.type', ('x', None, 3, 'CocoMetric')),
        ('param_scheduler.start_factor', (0., -1., 2., 'x', NAN)),
        ('param_scheduler.end', (-1, 'x', NAN, 0)),
        ('param_scheduler.begin', (-1, 'x', 99)),
        ('param_scheduler.by_epoch', ('x', )),
        ('env_cfg.opencv_num_threads', ('x', )),
        ('env_cfg.cudnn_benchmark', ('maybe', )),
        ('env_cfg.mp_cfg.opencv_num_threads', ('x', 1.5, [])),
        ('env_cfg.mp_cfg.mp_start_method', ('x', 3)),
        ('log_processor.window_size', ('x', 0, -1, NAN)),
        ('default_hooks.logger.interval', (0, -1, 'x', 1.5)),
        ('default_hooks.checkpoint.interval', ('x', [], NAN)),
        ('default_hooks.checkpoint.filename_tmpl', ('last.pth', '{}_{}.pth', '{}_{x}.pth')),
        ('default_hooks.logger.out_dir', ('config.py', '/proc/nowhere')),
        ('default_hooks.checkpoint.max_keep_ckpts', ('x', NAN, [])),
    ],
    DET: [
        ('optim_wrapper.optimizer.momentum', (NAN, INF, -1., 'x', None)),
        ('optim_wrapper.clip_grad', (dict(max_norm=NAN), dict(clip_value=-1., type='value'), 3, dict(max_nrom=1.))),
        ('auto_scale_lr', (dict(enable=True, base_batch_size=-4), dict(enable=True, base_batch_size=0), 3,
                           dict(enable=True, base_batch_size=NAN), dict(enable=True, base_batch_size='x'),
                           dict(enable=True))),
        ('model.data_preprocessor.pad_size_divisor', (0, -1, 'x', NAN)),
        ('model.data_preprocessor.std', ([0., 0., 0.], 'x')),
        ('model.backbone.arch', ('s99', 3)),
        ('model.backbone.out_indices', ((0, 1, 2, 9), (0, ), (3, 2, 1, 0))),
        ('model.neck.start_level', (9, -9, 'x', NAN)),
        ('model.neck.end_level', (9, 'x')),
        ('model.neck.num_outs', (0, -1, 'x', 2)),
        ('model.neck.in_channels', ([1, 2, 3, 4], [], 'x', [48, 64], 3)),
        ('model.neck.out_channels', (0, -1, 'x', 7)),
        ('model.rpn_head.anchor_generator.scales', ([], [0], [-1], 'x', [NAN])),
        ('model.rpn_head.anchor_generator.ratios', ([], [0], [-1], 'x', [NAN])),
        ('model.rpn_head.anchor_generator.strides', ([], [0, 0, 0, 0, 0], [4], 'x', [NAN] * 5)),
        ('model.rpn_head.bbox_coder.target_stds', ([0., 0., 0., 0.], [NAN] * 4, [1.], 'x', [-1.] * 4)),
        ('model.rpn_head.bbox_coder.target_means', ([NAN] * 4, [1.], 'x')),
        ('model.rpn_head.loss_bbox.loss_weight', ('x', NAN, None)),
        ('model.roi_head.bbox_head.num_classes', (0, -1, 'x', 1.5, 7)),
        ('model.roi_head.bbox_head.bbox_coder.target_stds', ([0., 0., 0., 0.], 'x')),
        ('model.roi_head.bbox_head.roi_feat_size', (0, 'x', 3)),
        ('model.roi_head.bbox_head.fc_out_channels', (0, -1, 'x')),
        ('model.roi_head.bbox_roi_extractor.roi_layer.output_size', (0, -1, 'x', 3, NAN)),
        ('model.roi_head.bbox_roi_extractor.roi_layer.sampling_ratio', ('x', NAN)),
        ('model.roi_head.bbox_roi_extractor.featmap_strides', ([], [0, 0, 0, 0], 'x')),
        ('model.roi_head.bbox_roi_extractor.out_channels', (0, 7, 'x')),
        ('model.train_cfg', (None, {}, 3, 'x', [])),
        ('model.test_cfg', (None, {}, 3, 'x')),
        ('model.train_cfg.rpn.assigner.pos_iou_thr', ('x', NAN, None)),
        ('model.train_cfg.rcnn.sampler.num', (0, -1, 'x')),
        ('model.train_cfg.rpn_proposal.nms', (dict(type='x'), 3, dict(type='nms', iou_threshold='x'), {})),
        ('model.test_cfg.rcnn.nms', (dict(type='x', iou_threshold=0.5), 3, dict(type='nms', iou_threshold='x'),
                                     dict(type='nms', iou_threshold=-1.), {})),
        ('model.test_cfg.rcnn.score_thr', ('x', None, NAN)),
        ('model.test_cfg.rcnn.max_per_img', ('x', None)),
        ('model.train_cfg.rcnn.sampler.pos_fraction', (3, -1, NAN)),
        ('model.train_cfg.rpn.assigner.neg_iou_thr', (0.9, (0.3, 0.9))),
        ('val_evaluator.metric', ('segm', 'x', [], 3, None, ['bbox', 'segm'])),
        ('val_evaluator.iou_thrs', ('x', [], NAN, ['x'])),
        ('val_evaluator.proposal_nums', ('x', (), (1, ))),
        ('val_evaluator.metric_items', (['x'], 'x')),
        ('activation_checkpointing', (['nowhere'], 'nowhere', 3)),
        ('efficient_conv_bn_eval', (['nowhere'], 3)),
        ('test_cfg', ('x', 3)),
    ],
}
JUNK = (None, 'junk', 3, [], {}, [[]])
SECTIONS = ('model', 'train_dataloader', 'val_dataloader', 'train_cfg', 'val_cfg', 'val_evaluator', 'optim_wrapper',
            'param_scheduler', 'default_hooks', 'randomness', 'custom_hooks', 'custom_imports', 'env_cfg',
            'default_scope', 'visualizer', 'log_processor', 'log_level', 'load_from', 'resume', 'launcher',
            'model_wrapper_cfg')
PARTS = {CLS: ('model.backbone', 'model.head', 'model.data_preprocessor', 'train_dataloader.dataset',
               'train_dataloader.sampler', 'train_dataloader.dataset.pipeline', 'train_dataloader.collate_fn',
               'optim_wrapper.optimizer', 'optim_wrapper.paramwise_cfg', 'default_hooks.checkpoint'),
         DET: ('model.neck', 'model.rpn_head', 'model.roi_head', 'model.roi_head.bbox_head',
               'model.rpn_head.anchor_generator', 'train_dataloader.dataset.metainfo', 'train_dataloader.batch_sampler',
               'train_dataloader.dataset.filter_cfg', 'train_dataloader.dataset.data_prefix',
               'val_dataloader.dataset.ann_file')}


def of_values() -> Iterator[Fault]:
    """Invalid numbers, texts and types."""
    for base, entries in NUMBERS.items():
        for path, values in entries:
            for value in values:
                extra = ('--auto-scale-lr', ) if path == 'auto_scale_lr' else ()
                yield Fault(f'{base}: {path} = {value!r}', base, set_(path, value), arguments=(
                    'train', 'config.py', *extra))
    for base, path in [*((CLS, section) for section in SECTIONS), *((b, part) for b in PARTS for part in PARTS[b])]:
        for value in JUNK:
            yield Fault(f'{base}: {path} = {value!r}', base, set_(path, value))


# ------------------------------------------------------------------------------------------------------ keys
MISSPELT = {
    CLS: ('model', 'train_dataloader', 'val_dataloader', 'train_cfg', 'val_cfg', 'val_evaluator', 'optim_wrapper',
          'param_scheduler', 'default_hooks', 'randomness', 'custom_imports', 'model.type', 'model.backbone',
          'model.backbone.type', 'model.backbone.arch', 'model.backbone.img_size', 'model.backbone.arch.embed_dims',
          'model.head', 'model.head.num_classes', 'model.head.in_channels', 'model.data_preprocessor',
          'model.data_preprocessor.mean', 'train_dataloader.batch_size', 'train_dataloader.sampler',
          'train_dataloader.sampler.shuffle', 'train_dataloader.dataset', 'train_dataloader.dataset.data_prefix',
          'train_dataloader.dataset.pipeline', 'train_dataloader.dataset.pipeline.0.type', 'val_evaluator.topk',
          'val_evaluator.type', 'train_cfg.max_epochs', 'train_cfg.by_epoch', 'optim_wrapper.optimizer',
          'optim_wrapper.optimizer.lr', 'optim_wrapper.clip_grad', 'optim_wrapper.clip_grad.max_norm',
          'optim_wrapper.paramwise_cfg', 'optim_wrapper.paramwise_cfg.norm_decay_mult', 'param_scheduler.start_factor',
          'param_scheduler.type', 'param_scheduler.by_epoch', 'default_hooks.logger.interval', 'randomness.seed'),
    DET: ('model.neck.in_channels', 'model.neck', 'model.roi_head.bbox_head.num_classes',
          'model.rpn_head.anchor_generator.scales', 'model.train_cfg', 'model.train_cfg.rpn',
          'model.train_cfg.rcnn.sampler.num', 'model.test_cfg.rcnn.nms', 'train_dataloader.dataset.metainfo',
          'train_dataloader.dataset.metainfo.classes',
          'train_dataloader.dataset.ann_file', 'train_dataloader.dataset.data_root',
          'train_dataloader.dataset.pipeline.2.scale', 'val_evaluator.ann_file', 'val_evaluator.metric'),
}
ADDED = ('optim_wraper', 'train_datalaoder', 'load_frm', 'custom_hook', 'val_evalutor', 'param_schedulers',
         'auto_scale_lrs', 'default_hook', 'resum', 'visualiser', 'log_procesor', 'randomnes', 'env_cgf',
         'activation_checkpoint')


def of_keys() -> Iterator[Fault]:
    """Keys that are misspelt or missing."""
    for base, paths in MISSPELT.items():
        for path in paths:
            last = path.split('.')[-1]
            misspelt = last[:-2] + last[-1] + last[-2] if last[-1] != last[-2] else last[:-1]
            yield Fault(f'{base}: {path} misspelt {misspelt}', base, rename(path, misspelt))
            yield Fault(f'{base}: {path} deleted', base, delete(path))
    for key in ADDED:
        yield Fault(f'cls: {key} added', CLS, set_(key, dict(a=1)))
    for key in ('backbon', 'head.fcc', 'norms', ''):
        yield Fault(f'cls: custom_keys {key!r}', CLS, set_('optim_wrapper.paramwise_cfg.custom_keys',
                                                          {key: dict(lr_mult=0.1)}))
    yield Fault('cls: custom_keys lr_mul', CLS, set_('optim_wrapper.paramwise_cfg.custom_keys',
                                                    {'backbone': dict(lr_mul=0.1)}))
    for key in ('CLASSES', 'class', 'classses', 'pallete'):
        yield Fault(f'det: metainfo {key}', DET, set_('train_dataloader.dataset.metainfo',
                                                      {key: toy_detection.CLASSES}))
    for layer in ('Conv5d', ['Linear', 'layernorm'], 3):
        yield Fault(f'cls: init_cfg.layer {layer!r}', CLS, set_('model.backbone.init_cfg', [dict(
            type='Normal', layer=layer, std=0.1)]))


# ------------------------------------------------------------------------------------------------ pipelines
def of_pipelines() -> Iterator[Fault]:
    """Pipelines that are empty, out of order, or lack a step."""
    for base, count in ((CLS, 2), (DET, 4)):
        for split in ('train', 'val'):
            path = f'{split}_dataloader.dataset.pipeline'
            yield Fault(f'{base}: {path} empty', base, set_(path, []))
            for index in range(count):
                yield Fault(f'{base}: {path}.{index} deleted', base, delete(f'{path}.{index}'))
            yield Fault(f'{base}: {path} reversed', base, lambda cfg, split=split: cfg[f'{split}_dataloader'][
                'dataset']['pipeline'].reverse())
            for name in ('Rezise', 'LoadImageFromFle', '', 3):
                yield Fault(f'{base}: {path}.0.type = {name!r}', base, set_(f'{path}.0.type', name))
    for scale in ((0, 0), (-1, 5), 'x', (), (NAN, NAN), 0, None, (1, )):
        yield Fault(f'det: scale {scale!r}', DET, set_('train_dataloader.dataset.pipeline.2.scale', scale))
    for keys in (('nothing', ), 3, ('img_id', 'x')):
        yield Fault(f'det: meta_keys {keys!r}', DET, set_('val_dataloader.dataset.pipeline.3.meta_keys', keys))
    for keys in (('img_path', ), ()):
        yield Fault(f'det: meta_keys {keys!r}', DET, set_('val_dataloader.dataset.pipeline.3.meta_keys', keys))
    for step in (dict(type='RandomCrop', crop_size=(0, 0)), dict(type='RandomCrop', crop_size=(-1, 5)),
                 dict(type='RandomFlip', prob=2.), dict(type='RandomFlip', prob='x'),
                 dict(type='RandomFlip', prob=0.5, direction='x'), dict(type='Pad'), dict(type='Normalize'),
                 dict(type='Normalize', mean=[0] * 3, std=[0] * 3), dict(type='Albu', transforms=[]),
                 dict(type='RandomResize', scale=(0, 0)), dict(type='Mosaic'), dict(type='CachedMosaic', prob=2.)):
        yield Fault(f'det: step {step!r}', DET, lambda cfg, step=step: cfg['train_dataloader']['dataset'][
            'pipeline'].insert(3, step))


# ---------------------------------------------------------------------------------------------- annotations
def annotated(change: Callable[[dict], Any]) -> Callable[[Path], None]:
    """Change the content of the annotation file."""

    def break_files(folder):
        file = folder / 'data/annotations.json'
        content = json.loads(file.read_text())
        changed = change(content)
        file.write_text(json.dumps(content if changed is None else changed))

    return break_files


def of_annotations() -> Iterator[Fault]:
    """Annotations with missing keys, wrong types, values that no box has."""
    changes: Dict[str, Callable] = {}
    for part in ('images', 'annotations', 'categories'):
        changes[f'no {part}'] = lambda content, part=part: content.pop(part) and None
        for value in ([], None, 'x', 3, {}, [[]], [None], ['x']):
            changes[f'{part} = {value!r}'] = lambda content, part=part, value=value: content.update({part: value})
    for part, keys in (('images', ('id', 'file_name', 'height', 'width')),
                       ('annotations', ('id', 'image_id', 'category_id', 'bbox', 'area', 'iscrowd')),
                       ('categories', ('id', 'name'))):
        for key in keys:
            changes[f'{part} without {key}'] = lambda content, part=part, key=key: content[part][0].pop(key) and None
            for value in (None, 'x', [], -7, NAN):
                changes[f'{part}.{key} = {value!r}'] = lambda content, part=part, key=key, value=value: content[part][
                    0].update({key: value})
    for box in ([], [1, 2, 3], [1, 2, 3, 4, 5], [NAN] * 4, [INF] * 4, [1, 2, -3, -4], ['x'] * 4, [1, 2, NAN, 4],
                [[1, 2, 3, 4]], [1e30, 1e30, 1e30, 1e30], [None] * 4):
        changes[f'bbox {box!r}'] = lambda content, box=box: content['annotations'][0].update(bbox=box)
    changes['a category twice'] = lambda content: content['categories'][1].update(name='dark')
    changes['a category id twice'] = lambda content: content['categories'][1].update(id=1)
    changes['categories in another order'] = lambda content: content['categories'].reverse()
    changes['an image id twice'] = lambda content: content['images'][1].update(id=0)
    changes['all are crowds'] = lambda content: [one.update(iscrowd=1) for one in content['annotations']] and None
    changes['unknown category'] = lambda content: content['annotations'][0].update(category_id=99)
    changes['unknown image'] = lambda content: content['annotations'][0].update(image_id=99)
    changes['a list'] = lambda content: [content]
    changes['a number'] = lambda content: 3
    changes['all boxes gone'] = lambda content: content.update(annotations=[])
    for name, change in changes.items():
        yield Fault(f'annotations: {name}', DET, break_files=annotated(change))
    yield Fault('image: a pipe, check --data', DET, break_files=lambda folder: (
        (folder / 'data/images/1.png').unlink(), os.mkfifo(folder / 'data/images/1.png')), arguments=(
            'check', 'config.py', '--data'))
    yield Fault('annotations: file a pipe', DET, break_files=lambda folder: (
        (folder / 'data/annotations.json').unlink(), os.mkfifo(folder / 'data/annotations.json')))
    for name, text in (('empty', ''), ('blank', ' '), ('nested', '[' * 100000 + ']' * 100000), ('no json', '{"a"'),
                       ('binary', '\0\1\2'), ('braces', '{}'), ('null', 'null')):
        yield Fault(f'annotations: file {name}', DET, break_files=lambda folder, text=text: (
            folder / 'data/annotations.json').write_text(text))
    for name, mask in (('rle junk', dict(size=[64, 64], counts='###')), ('rle sizes', dict(size=[1], counts=[1, 2])),
                       ('rle negative', dict(size=[64, 64], counts=[-5, 9])), ('text', 'x'), ('number', 3),
                       ('two points', [[1, 2, 3, 4]]), ('no points', [[]]), ('odd', [[1, 2, 3, 4, 5, 6, 7]]),
                       ('nan', [[NAN] * 6]), ('none', None), ('texts', [['x'] * 6]), ('empty', [])):
        yield Fault(f'masks: {name}', DET, set_('train_dataloader.dataset.pipeline.1.with_mask', True), annotated(
            lambda content, mask=mask: [one.update(segmentation=mask) for one in content['annotations']] and None))


# ---------------------------------------------------------------------------------------------------- images
def of_images() -> Iterator[Fault]:
    """Images that cannot be decoded, are missing, or are something else, with and without workers."""
    kinds: Dict[str, Callable[[Path], Any]] = {
        'no bytes': lambda file: file.write_bytes(b''),
        'truncated': lambda file: file.write_bytes(file.read_bytes()[:40]),
        'text': lambda file: file.write_text('no image'),
        'a folder': lambda file: (file.unlink(), file.mkdir()),
        'missing': lambda file: file.unlink(),
        'a broken link': lambda file: (file.unlink(), file.symlink_to('nowhere')),
        'a pipe': lambda file: (file.unlink(), os.mkfifo(file)),
    }
    for kind, change in kinds.items():
        for workers in (0, 2):
            for split in ('train', 'val'):
                yield Fault(f'image: {kind}, {workers} workers, {split}', DET, both(
                    set_(f'{split}_dataloader.num_workers', workers), set_('val_evaluator.ann_file', 'good.json'),
                    set_(('val' if split == 'train' else 'train') + '_dataloader.dataset.data_root', 'other/')),
                    lambda folder, change=change: (change(folder / 'data/images/1.png'), shutil.copytree(
                        GOOD[DET] / 'data', folder / 'other'), shutil.copy(GOOD[DET] / 'data/annotations.json',
                                                                          folder / 'good.json')))
        if kind not in ('missing', 'a folder'):
            yield Fault(f'image: {kind}, classes', CLS, break_files=lambda folder, change=change: change(
                folder / 'data/0/1.png'))
    for name, change in (('a folder less', lambda folder: shutil.rmtree(folder / 'data/0')),
                         ('no folder', lambda folder: shutil.rmtree(folder / 'data')),
                         ('empty folders', lambda folder: [path.unlink() for path in folder.glob('data/*/*.png')])):
        yield Fault(f'classes: {name}', CLS, break_files=change)
    yield Fault('classes: those of validation differ', CLS, set_('val_dataloader.dataset.data_prefix', 'fewer'),
                lambda folder: shutil.copytree(folder / 'data/1', folder / 'fewer/1'))
    yield Fault('classes: a name twice', CLS, both(*(set_(f'{split}_dataloader.dataset.metainfo', dict(
        classes=['0', '0'])) for split in ('train', 'val'))))


# ----------------------------------------------------------------------------------------------- checkpoints
def whole_checkpoint() -> dict:
    """What a resumable checkpoint of the classifier holds."""
    return copy.deepcopy(torch.load(GOOD[CLS] / 'epoch_1.pth', weights_only=False))


def of_checkpoints() -> Iterator[Fault]:
    """Checkpoints that are damaged or of another model, to start from, to resume, to test."""
    def saved(change):
        def break_files(folder):
            content = whole_checkpoint()
            changed = change(content)
            torch.save(content if changed is None else changed, folder / 'broken.pth')
        return break_files

    longer = set_('train_cfg.max_epochs', 2)  # so that something is left to train

    def state(change):
        return saved(lambda content: content['state_dict'].update(
            {name: change(weight) for name, weight in content['state_dict'].items()}))

    changes: Dict[str, Callable[[Path], Any]] = {
        'a list': saved(lambda content: [1, 2]), 'a number': saved(lambda content: 3), 'empty': saved(lambda c: {}),
        'numbers': state(lambda weight: 3.), 'integers': state(lambda weight: (9 * weight).long()),
        'complex': state(lambda weight: weight.to(torch.complex64)), 'nan': state(lambda weight: weight * NAN),
        'texts': state(lambda weight: 'x'), 'scalars': state(lambda weight: torch.ones(())),
        'names': saved(lambda content: dict(state_dict={3: torch.ones(1)})),
        'others': saved(lambda content: dict(state_dict={'other': torch.ones(1)})),
        'text': lambda folder: (folder / 'broken.pth').write_text('no checkpoint'),
        'bytes': lambda folder: (folder / 'broken.pth').write_bytes(b''),
        'a folder': lambda folder: (folder / 'broken.pth').mkdir(),
        'cut': lambda folder: (folder / 'broken.pth').write_bytes((GOOD[CLS] / 'epoch_1.pth').read_bytes()[:5000]),
        'missing': lambda folder: None,
    }
    for name, change in changes.items():
        yield Fault(f'checkpoint: {name}, start', CLS, set_('load_from', 'broken.pth'), change)
        yield Fault(f'checkpoint: {name}, resume', CLS, longer, change, (
            'train', 'config.py', '--resume', 'broken.pth'))
        yield Fault(f'checkpoint: {name}, test', CLS, break_files=change, arguments=('test', 'config.py', 'broken.pth'))
    for key in ('meta', 'optimizer', 'message_hub', 'state_dict', 'param_schedulers', 'random_states'):
        for value in (None, 'x', [], {}, 3):
            yield Fault(f'checkpoint: {key} = {value!r}', CLS, break_files=saved(
                lambda content, key=key, value=value: content.update({key: value})), break_config=longer, arguments=(
                    'train', 'config.py', '--resume', 'broken.pth'))
    for key, value in (('iter', 'x'), ('epoch', None), ('iter', -5), ('seed', 'x'), ('iter', NAN)):
        yield Fault(f'checkpoint: meta.{key} = {value!r}', CLS, break_files=saved(
            lambda content, key=key, value=value: content['meta'].update({key: value})), break_config=longer,
            arguments=(
                'train', 'config.py', '--resume', 'broken.pth'))
    for schedule in (dict(type='ConstantLR', factor=0.5), dict(type='LinearMomentum', start_factor=0.5),
                     dict(type='ExponentialLR', gamma=0.9)):
        yield Fault(f'checkpoint: resumed with {schedule["type"]}', CLS, both(longer, set_(
            'param_scheduler', schedule), set_('optim_wrapper.optimizer.type', 'AdamW')), saved(lambda content: None),
                    ('train', 'config.py', '--resume', 'broken.pth'))
    yield Fault('checkpoint: resumed without schedules', CLS, both(longer, delete('param_scheduler')),
                saved(lambda content: None), ('train', 'config.py', '--resume', 'broken.pth'))
    for name, change in (('its lr', lambda state: state['param_groups'][0].update(lr=NAN)),
                         ('an average', lambda state: state['state'][0]['exp_avg'].fill_(INF))):
        yield Fault(f'checkpoint: {name} is not finite', CLS, longer, saved(
            lambda content, change=change: (change(content['optimizer']), content)[1]), (
                'train', 'config.py', '--resume', 'broken.pth'))
    for kind in ('SGD', 'Adadelta', 'RMSprop'):
        yield Fault(f'checkpoint: resumed with {kind}', CLS, both(longer, set_('optim_wrapper.optimizer', dict(
            type=kind, lr=0.01, weight_decay=0.05))),
                    saved(lambda content: None), ('train', 'config.py', '--resume', 'broken.pth'))
    for text in ('', 'nowhere.pth', '\0', '/', 'work'):
        yield Fault(f'checkpoint: last_checkpoint {text!r}', CLS, break_files=lambda folder, text=text: (
            (folder / 'work').mkdir(), (folder / 'work/last_checkpoint').write_text(text),
            (folder / 'work/epoch_1.pth').write_text('cut')), arguments=(
                'train', 'config.py', '--work-dir', 'work', '--resume'))


# ------------------------------------------------------------------------------- command lines, texts, hooks
def of_commands() -> Iterator[Fault]:
    """Command lines, and configs that are no configs."""
    for arguments in (['train'], ['train', 'nowhere.py'], ['train', '.'], ['trian'],
                      ['train', 'config.py', '--wrok-dir', 'x'],
                      ['train', 'config.py', '--work-dir', ''], ['train', 'config.py', '--work-dir', 'config.py'],
                      ['train', 'config.py', '--launcher', 'x'], ['train', 'config.py', '--launcher', 'mpi'],
                      ['train', 'config.py', '--cfg-options'], ['train', 'config.py', '--cfg-options', 'x'],
                      ['train', 'config.py', '--cfg-options', 'a.b=1'], ['train', 'config.py', '--auto-scale-lr'],
                      ['train', 'config.py', '--cfg-options', 'model.backbone.x.y.z=1'], ['test', 'config.py'],
                      ['train', 'config.py', '--cfg-options', 'param_scheduler.9.x=1'], ['test', 'config.py', 'x.pth'],
                      ['train', 'config.py', '--resume', 'nowhere.pth'], ['train', 'config.py', 'more'],
                      ['test', 'config.py', 'x.pth', '--out', 'x.txt'], ['predict', 'config.py', 'x.pth', 'data'],
                      ['memory', 'config.py', '--batch', '0'], ['memory', 'config.py', '--image', '0', '0'],
                      ['memory', 'config.py', '--image', '16', '16', '--json', 'no/x.json'],
                      ['memory', 'config.py', '--image', '16', '16', '--picture', 'x.nope'],
                      ['memory', 'config.py', '--gpu-memory', 'x'], ['convert', 'nowhere.pth', 'x.pth'],
                      ['convert', 'config.py', 'x.pth'], ['publish', 'nowhere.pth', 'x.pth'], ['check', 'nowhere.py'],
                      ['train', 'mmrev::nowhere.py'], ['train', 'x::y.py'], ['train', 'mmdet::nowhere/nothing.py']):
        yield Fault(f'command: {" ".join(arguments)}', CLS, arguments=arguments)
    for size in (NAN, -3, 'x', [], 10 ** 9):
        yield Fault(f'memory: batch_size = {size!r}', CLS, set_('train_dataloader.batch_size', size), arguments=(
            'memory', 'config.py'))
    yield Fault('command: a folder in place of the lock', CLS, break_files=lambda folder: (
        folder / 'work/.lock').mkdir(parents=True), arguments=('train', 'config.py', '--work-dir', 'work'))
    texts = {
        'empty': '', 'syntax': 'model = dict(', 'exit': 'import sys\nsys.exit(0)\n', 'raises': 'raise ValueError\n',
        'no base': "_base_ = './nowhere.py'\n", 'own base': "_base_ = './config.py'\n", 'base 3': '_base_ = 3\n',
        'name': 'model = nothing\n', 'no import': 'import no_such_module\n', 'zero': 'model = 1 / 0\n',
        'assert': 'assert False\n', 'custom import': "custom_imports = dict(imports=['no_such_module'])\n",
        'recursion': 'def f():\n    f()\nf()\n', 'null': 'model = "\0"\n', 'tabs': 'if 1:\n\tmodel = 1\n  x = 2\n',
    }
    for name, text in texts.items():
        yield Fault(f'text: {name}', CLS, break_files=lambda folder, text=text: (folder / 'config.py').write_text(text))
    yield Fault('text: latin', CLS, break_files=lambda folder: (folder / 'config.py').write_bytes(b'model = "\xe9"\n'))
    for file in ('config.json', 'config.yaml', 'config.txt'):
        yield Fault(f'text: {file}', CLS, break_files=lambda folder, file=file: (folder / file).write_text('{'),
                    arguments=('train', file))
    hooks: List[dict] = [
        dict(type='EarlyStoppingHook', monitor='nope'), dict(type='EarlyStoppingHook'),
        dict(type='EMAHook', momentum=2.),
        dict(type='EMAHook', momentum='x'), dict(type='EMAHook', ema_type='x'), dict(type='nope'), dict(), 3,
        dict(type='EMAHook', update_buffers='x'),
        dict(type='mmrev.FiniteLossHook', patience='x'), dict(type='mmrev.FiniteLossHook', patience=-1),
        dict(type='mmrev.InPlaceABNHook', x=1),
        dict(type='mmrev.SaveMemoryHook', level='x'), dict(type='mmrev.SaveMemoryHook', modules=['nowhere']),
        *(dict(type='mmdet.PipelineSwitchHook', switch_epoch=1, switch_pipeline=[step])
          for step in (dict(type='LoadImageFromFle'), dict(type='mmpretrain.RandomFlip', porb=0.5))),
        dict(type='EMAHook', priority='x'), dict(type='EMAHook', priority=-5), dict(type='SyncBuffersHook', x=1)]
    for hook in hooks:
        yield Fault(f'hook: {hook!r}', CLS, set_('custom_hooks', [hook]))
    for folder in ('config.py', 'config.py/x', '/proc/nowhere'):
        yield Fault(f'hook: out_dir {folder}', CLS, set_('default_hooks.checkpoint', dict(
            type='CheckpointHook', interval=1, out_dir=folder)))
        yield Fault(f'metric: outfile_prefix {folder}/x', DET, set_('val_evaluator.outfile_prefix', f'{folder}/x'))
    for entry in (dict(method_name='nope'), dict(method_name='mean', window_size='x'), dict(method_name='min', x=1),
                  dict(method_name='mean', window_size='epohc'), {}):
        yield Fault(f'log_processor: {entry!r}', CLS, set_('log_processor', dict(
            type='LogProcessor', custom_cfg=[dict(entry, data_src='loss', log_name='log')])))
    for best in ('accuracy/nope', 'nope', 3, ['accuracy/top1', 'accuracy/nope'], 'coco/bbox_mAP'):
        yield Fault(f'hook: save_best {best!r}', CLS, set_('default_hooks.checkpoint', dict(
            type='CheckpointHook', interval=1, save_best=best, rule='greater')))
    yield Fault('hook: save_best coco/nope', DET, set_('default_hooks.checkpoint', dict(
        type='CheckpointHook', interval=1, save_best='coco/nope', rule='greater')))
    schedules: List[Any] = [
        dict(type='CosineAnnealingLR', T_max=0), dict(type='CosineAnnealingLR', T_max=2, eta_min='x'),
        dict(type='StepLR', step_size=0), dict(type='StepLR', step_size='x'), dict(type='MultiStepLR', milestones='x'),
        dict(type='MultiStepLR', milestones=[1, '2']),
        dict(type='MultiStepLR', milestones=[2, 1], gamma='x'), dict(type='PolyLR', power='x'), dict(type='nope'),
        dict(type='ExponentialLR', gamma='x'), dict(type='ExponentialLR'), dict(type='OneCycleLR', eta_max='x'),
        dict(type='ReduceOnPlateauLR', monitor='nope'), dict(type='LinearLR', end=1, begin=5), 3, 'x',
        dict(type='CosineRestartLR', periods=[0], restart_weights=[1.]), dict(type='LinearMomentum', start_factor='x')]
    for schedule in schedules:
        yield Fault(f'schedule: {schedule!r}', CLS, set_('param_scheduler', [schedule]))


def faults() -> List[Fault]:
    """All of them, in an order that spreads the classes."""
    classes = (of_values, of_keys, of_pipelines, of_annotations, of_images, of_checkpoints, of_commands)
    found = [fault for make in classes for fault in make()]
    random.Random(0).shuffle(found)
    return found


# ---------------------------------------------------------------------------------------------------- running
GOOD: Dict[str, Path] = {}  # folder of each config with its data


def prepare(folder: Path) -> Dict[str, dict]:
    """Write data and a checkpoint; the good configs."""
    GOOD[DET], GOOD[CLS] = folder / DET, folder / CLS
    toy_detection.write_dataset(GOOD[DET] / 'data', size=32)
    toy_classification.write_dataset(GOOD[CLS] / 'data', num_images=4)
    lines = dict(custom_imports=dict(imports=['mmrev', 'mmdet.models', 'mmdet.datasets']), train_cfg=dict(max_epochs=1))
    (GOOD[DET] / 'config.py').write_text(toy_detection.config_text('data', **lines).replace('(64, 64)', '(32, 32)'))
    (GOOD[CLS] / 'config.py').write_text(toy_classification.config_text('data', 4).replace(
        'max_epochs=4', 'max_epochs=1'))
    configs = {}
    for base, place in GOOD.items():
        configs[base] = Config.fromfile(place / 'config.py').to_dict()
        (place / 'config.py').write_text(text_of(configs[base]))
    status, errors = forked('train', 'config.py', '--work-dir', '.', cwd=GOOD[CLS])
    assert status == 0, errors
    return configs


def text_of(cfg: dict) -> str:
    """A config as Python."""
    lines = [f'{key} = {value!r}' for key, value in cfg.items() if key != '_base_']
    return re.sub(r'(?<![\w\'"])(nan|inf)(?![\w\'"])', r"float('\1')", '\n'.join(lines)) + '\n'


def lay_out(fault: Fault, configs: Dict[str, dict], folder: Path) -> None:
    """Write the input into a folder."""
    shutil.copytree(GOOD[fault.base] / 'data', folder / 'data')
    cfg = copy.deepcopy(configs[fault.base])
    fault.break_config(cfg)
    (folder / 'config.py').write_text(text_of(cfg))
    fault.break_files(folder)


def contents(folder: Path) -> Dict[str, Tuple[int, int]]:
    """Size and time of change of all files, by their paths."""
    return {str(path.relative_to(folder)): (path.lstat().st_size, path.lstat().st_mtime_ns if path.is_file() else 0)
            for path in folder.rglob('*') if '__pycache__' not in path.parts}


def verdict(status: int, errors: str, before: dict, after: dict, legitimate: bool) -> str:
    """What is wrong with how a command ended; empty if nothing is."""
    said = [line for line in errors.splitlines() if line.strip()]  # with warnings, if any
    if 'Traceback' in errors:
        return 'a traceback'
    if legitimate:
        return '' if status == 0 else f'status {status}'
    if status != 2:
        return f'status {status}'
    if ': error: ' not in errors or len(said) > 3:
        return f'{len(said)} lines'
    written = sorted(path for path in {*before, *after} if before.get(path) != after.get(path))
    return f'written: {", ".join(written[:3])}' if written else ''


def run(fault: Fault, configs: Dict[str, dict], folder: Path, command: Callable = forked,
        legitimate: Collection[str] = LEGITIMATE) -> Tuple[str, str]:
    """Run one; what is wrong with its end, and what it said."""
    folder.mkdir()
    lay_out(fault, configs, folder)
    before = contents(folder)
    status, errors = command(*fault.arguments, cwd=folder)
    found = verdict(status, errors, before, contents(folder), fault.name in legitimate)
    shutil.rmtree(folder)
    return found, errors
