"""RevBiFPN beside the ResNets and HRNet of mmdet and mmseg on your own data, from random weights, trained alike.

Examples:
    python benchmarks/own_data.py DATA                 # boxes: Faster R-CNN
    python benchmarks/own_data.py DATA --task segm     # masks: Mask R-CNN
    python benchmarks/own_data.py DATA --task semseg   # classes of pixels: the head of Panoptic FPN, in mmseg
    python benchmarks/own_data.py DATA --models revbifpn_s3 revbifpn_s3_plain resnet50_fpn hrnetv2p_w18

DATA holds `annotations/train.json` and `annotations/val.json` in COCO's format, and the images in `train/` and `val/`.
Everything except backbone and neck is the same for all: images, batches, steps, optimizer, heads. Parameters,
memory per image and processor time per step (one thread) are measured with the trained weights on images of the
validation set. For classes of pixels, maps of labels are drawn from the objects' masks: 0 is the background, a later
object covers an earlier one.
"""
import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, NamedTuple, Tuple

import cost
import cv2
import numpy as np
from pycocotools.coco import COCO

ROOT = Path(__file__).resolve().parents[1]
FROM_SCRATCH = dict(init_cfg=None, frozen_stages=-1, norm_eval=False)  # what mmdet sets for ImageNet's weights
DETECTORS = dict(
    revbifpn_s0=('mmrev::revbifpn/{0}_rcnn_revbifpn_s0.py', {}),
    resnet50_fpn=('mmdet::{0}_rcnn/{0}-rcnn_r50_fpn_1x_coco.py', dict(backbone=FROM_SCRATCH)),
    revbifpn_s3=('mmrev::revbifpn/{0}_rcnn_revbifpn_s3.py', {}),
    revbifpn_s3_plain=('mmrev::revbifpn/{0}_rcnn_revbifpn_s3.py', dict(backbone=dict(reversible=False))),
    hrnetv2p_w18=('mmdet::hrnet/{0}-rcnn_hrnetv2p-w18-1x_coco.py', dict(backbone=dict(init_cfg=None, norm_eval=False))),
)
SEGMENTOR = 'mmrev::revbifpn/fpn_revbifpn-s0_digits.py'
SEGMENTORS = dict(
    revbifpn_s0=(SEGMENTOR, {}),
    resnet18=(SEGMENTOR, dict(
        backbone=dict(_delete_=True, type='mmseg.ResNet', depth=18, norm_cfg=dict(type='BN')),
        decode_head=dict(in_channels=[64, 128, 256, 512]))),
)


class Task(NamedTuple):
    """What is trained: its models, the first two by default, the R-CNN's kind, and its metrics in mmengine's log."""
    models: Dict[str, Tuple[str, dict]]
    kind: str
    metrics: Dict[str, str]


TASKS = dict(
    bbox=Task(DETECTORS, 'faster', dict(mAP='coco/bbox_mAP', mAP50='coco/bbox_mAP_50')),
    segm=Task(DETECTORS, 'mask', dict(mAP='coco/segm_mAP', mAP50='coco/segm_mAP_50')),
    semseg=Task(SEGMENTORS, '', dict(mIoU='mIoU', mDice='mDice')))


def main(argv=None):
    """Train and test the models one after the other, print the table."""
    args = parse_args(argv)
    metrics = TASKS[args.task].metrics
    if args.task == 'semseg':
        draw_labels(args.data, args.work_dir / 'labels')
    rows = [run(name, args) for name in args.models]
    print(f'\n{args.task:<18}{"M param.":>9}{"MiB/img":>9}{"CPU s":>8}' + ''.join(f'{name:>8}' for name in metrics) +
          f'{"minutes":>9}   {args.epochs} epochs of {args.data}')
    for name, spent, scores, minutes in rows:
        print(f'{name:<18}{spent.parameters:>9.1f}{spent.mib:>9.1f}{spent.seconds:>8.2f}' +
              ''.join(f'{scores[key]:>8.4g}' for key in metrics.values()) + f'{minutes:>9.1f}')
    return 0


def parse_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split('\n', 1)[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('data', type=Path, help='folder with annotations/, train/ and val/')
    parser.add_argument('--task', choices=TASKS, default='bbox', help='boxes, boxes and masks, or classes of pixels')
    parser.add_argument('--models', nargs='+', choices=[*DETECTORS, *SEGMENTORS],
                        help="the task's first two by default: " + '; '.join(
                            f'{task}: {", ".join(list(entry.models)[:2])}' for task, entry in TASKS.items()))
    parser.add_argument('--work-dir', type=Path, default='work_dirs/own_data')
    parser.add_argument('--epochs', type=int, default=12)
    parser.add_argument('--batch-size', type=int, default=2)
    parser.add_argument('--scale', type=int, nargs=2, default=(256, 192), help='longer and shorter side in pixels')
    parser.add_argument('--anchor-scale', type=int, default=8, help='side of the anchors, in strides (4 to 64 pixels)')
    parser.add_argument('--channels', type=int, default=64, help='of the feature pyramid and the heads; COCO: 256')
    parser.add_argument('--lr', type=float, default=1e-3, help='of AdamW')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args(argv)
    models = TASKS[args.task].models
    args.models = args.models or list(models)[:2]
    if unknown := set(args.models) - set(models):
        parser.error(f'--task {args.task} has no model {unknown.pop()}: it has {", ".join(models)}')
    return args


def run(name, args):
    """Train and test one model; returns its name, what a step costs, its metrics and the minutes of training."""
    folder = args.work_dir / name
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / f'{name}.py'
    config.write_text(config_text(name, args), encoding='utf-8')
    begin = time.time()
    call('train.py', config, '--work-dir', folder)
    minutes = (time.time() - begin) / 60
    call('test.py', config, folder / f'epoch_{args.epochs}.pth', '--work-dir', folder / 'test', '--out',
         folder / 'predictions.pkl')
    scores = max((folder / 'test').glob('*/*.json'), key=lambda path: path.stat().st_mtime)
    spent = cost.measure(str(config), 'val', folder / f'epoch_{args.epochs}.pth')
    return name, spent, json.loads(scores.read_text(encoding='utf-8').splitlines()[-1]), minutes


def draw_labels(data, folder):
    """Draw the maps of labels of the objects, as PNG files with the names of their images."""
    for split in ('train', 'val'):
        coco = COCO(data / f'annotations/{split}.json')
        number = {category: label for label, category in enumerate(coco.getCatIds(), start=1)}
        (folder / split).mkdir(parents=True, exist_ok=True)
        for image in coco.loadImgs(coco.getImgIds()):
            labels = np.zeros((image['height'], image['width']), np.uint8)
            for entry in coco.loadAnns(coco.getAnnIds(image['id'])):
                labels[coco.annToMask(entry) == 1] = number[entry['category_id']]
            cv2.imwrite(str((folder / split / image['file_name']).with_suffix('.png')), labels)


def config_text(name, args):
    """The config of one model: its base, and what is the same for all."""
    task = TASKS[args.task]
    base, own = task.models[name]
    content = json.loads((args.data / 'annotations' / 'train.json').read_text(encoding='utf-8'))
    classes = tuple(category['name'] for category in content['categories'])
    if args.task == 'semseg':
        settings = segmentor(classes, Path(content['images'][0]['file_name']).suffix, args)
    else:
        settings = detector(classes, args)
    for part, entries in own.items():
        settings['model'].setdefault(part, {}).update(entries)
    settings = {'_base_': base.format(task.kind), **settings, **schedule(args)}
    return ''.join(f'{key} = {value!r}\n' for key, value in settings.items())


def detector(classes, args):
    """Data and heads of an R-CNN, as top-level entries of a config."""
    def loader(split, pipeline, **entries):
        dataset = dict(data_root=data_root, metainfo=dict(classes=classes), ann_file=f'annotations/{split}.json',
                       data_prefix=dict(img=f'{split}/'), pipeline=pipeline)
        return dict(dataset=dataset, **entries)

    data_root = str(args.data.resolve()) + '/'
    masks = args.task == 'segm'
    scale = tuple(args.scale)
    load, labels, resize, pack = (
        dict(type='LoadImageFromFile'), dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=masks),
        dict(type='mmdet.Resize', scale=scale, keep_ratio=True), dict(type='mmdet.PackDetInputs'))
    augment = [  # otherwise a network memorizes few small images
        dict(type='RandomResize', resize_type='mmdet.Resize', scale=scale, ratio_range=(0.75, 1.4), keep_ratio=True),
        dict(type='mmdet.RandomCrop', crop_size=scale[::-1], allow_negative_crop=True),
        dict(type='mmdet.RandomFlip', prob=[0.25] * 3, direction=['horizontal', 'vertical', 'diagonal'])]
    pack_test = dict(pack, meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))
    held_out = loader('val', [load, resize, labels, pack_test])
    evaluator = dict(ann_file=data_root + 'annotations/val.json')
    extractor = dict(out_channels=args.channels)
    head = dict(in_channels=args.channels, num_classes=len(classes))
    roi_head = dict(bbox_roi_extractor=extractor, bbox_head=dict(head, fc_out_channels=4 * args.channels))
    if masks:
        roi_head.update(mask_roi_extractor=extractor, mask_head=dict(head, conv_out_channels=args.channels))
    return dict(
        model=dict(
            neck=dict(out_channels=args.channels),
            rpn_head=dict(in_channels=args.channels, feat_channels=args.channels,
                          anchor_generator=dict(scales=[args.anchor_scale])),
            roi_head=roi_head,
            train_cfg=dict(rpn_proposal=dict(nms_pre=500, max_per_img=300), rcnn=dict(sampler=dict(num=128))),
            test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=300))),
        train_dataloader=loader('train', [load, labels, *augment, pack], batch_size=args.batch_size),
        val_dataloader=held_out,
        test_dataloader=held_out,
        val_evaluator=evaluator,
        test_evaluator=evaluator)


def segmentor(classes, suffix, args):
    """Data and head of a segmentor, as top-level entries of a config; the images' names end with ``suffix``."""
    def loader(split, pipeline, **entries):
        places = dict(img_path=args.data, seg_map_path=args.work_dir / 'labels')
        dataset = dict(data_root='', metainfo=dict(_delete_=True, classes=('background', *classes)), img_suffix=suffix,
                       data_prefix={kind: str(place.resolve() / split) for kind, place in places.items()},
                       pipeline=pipeline)
        return dict(dataset=dataset, **entries)

    scale = tuple(args.scale)
    load, annotate, resize, pack = (
        dict(type='LoadImageFromFile'), dict(type='mmseg.LoadAnnotations'),
        dict(type='mmseg.Resize', scale=scale, keep_ratio=True), dict(type='mmseg.PackSegInputs'))
    augment = [
        dict(type='RandomResize', resize_type='mmseg.Resize', scale=scale, ratio_range=(0.75, 1.4), keep_ratio=True),
        dict(type='mmseg.RandomCrop', crop_size=scale[::-1]),
        dict(type='RandomFlip', prob=[0.25] * 3, direction=['horizontal', 'vertical', 'diagonal'])]
    held_out = loader('val', [load, resize, annotate, pack])  # labels after Resize: the truth keeps its size
    evaluator = dict(iou_metrics=['mIoU', 'mDice'])
    return dict(
        model=dict(decode_head=dict(num_classes=1 + len(classes), channels=args.channels,
                                    loss_decode=dict(class_weight=None))),
        train_dataloader=loader('train', [load, annotate, *augment, pack], batch_size=args.batch_size),
        val_dataloader=held_out,
        test_dataloader=held_out,
        val_evaluator=evaluator,
        test_evaluator=evaluator)


def schedule(args):
    """AdamW for a few epochs, as top-level entries of a config."""
    return dict(
        train_cfg=dict(max_epochs=args.epochs, val_interval=max(1, args.epochs // 2)),
        optim_wrapper=dict(
            optimizer=dict(_delete_=True, type='AdamW', lr=args.lr, weight_decay=0.01),
            clip_grad=dict(max_norm=10., norm_type=2)),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
            dict(type='CosineAnnealingLR', T_max=args.epochs, eta_min=args.lr / 100, by_epoch=True, begin=0,
                 end=args.epochs, convert_to_iter_based=True)],
        default_hooks=dict(logger=dict(interval=10), checkpoint=dict(max_keep_ckpts=1)),
        randomness=dict(seed=args.seed))


def call(tool, *arguments):
    """Run one of the tools and print its command line."""
    command = [sys.executable, str(ROOT / 'tools' / tool), *map(str, arguments)]
    print(f'\n$ {shlex.join(["python", *command[1:]])}', flush=True)
    subprocess.run(command, check=True)


if __name__ == '__main__':
    sys.exit(main())
