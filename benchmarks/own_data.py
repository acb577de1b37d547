"""RevBiFPN, mmdet's ResNet-50 FPN and HRNet on your own data, from random weights, with the same data and schedule.

Examples:
    python benchmarks/own_data.py DATA                 # boxes: Faster R-CNN
    python benchmarks/own_data.py DATA --task segm     # masks: Mask R-CNN
    python benchmarks/own_data.py DATA --models revbifpn_s3 revbifpn_s3_plain resnet50_fpn hrnetv2p_w18

DATA holds `annotations/train.json` and `annotations/val.json` in COCO's format, and the images in `train/` and `val/`.
Everything except backbone and neck is the same for all: images, batches, steps, optimizer, heads. Parameters,
memory per image and processor time per step (one thread) are measured with the trained weights on images of the
validation set.
"""
import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import cost

ROOT = Path(__file__).resolve().parents[1]
FROM_SCRATCH = dict(init_cfg=None, frozen_stages=-1, norm_eval=False)  # what mmdet sets for ImageNet's weights
KINDS = dict(bbox='faster', segm='mask')  # of the R-CNN, by task
MODELS = dict(
    revbifpn_s0=('mmrev::revbifpn/{0}_rcnn_revbifpn_s0.py', {}),
    resnet50_fpn=('mmdet::{0}_rcnn/{0}-rcnn_r50_fpn_1x_coco.py', dict(backbone=FROM_SCRATCH)),
    revbifpn_s3=('mmrev::revbifpn/{0}_rcnn_revbifpn_s3.py', {}),
    revbifpn_s3_plain=('mmrev::revbifpn/{0}_rcnn_revbifpn_s3.py', dict(backbone=dict(reversible=False))),
    hrnetv2p_w18=('mmdet::hrnet/{0}-rcnn_hrnetv2p-w18-1x_coco.py', dict(backbone=dict(init_cfg=None, norm_eval=False))),
)


def main(argv=None):
    """Train and test the models one after the other, print the table."""
    args = parse_args(argv)
    rows = [run(name, args) for name in args.models]
    print(f'\n{args.task:<18}{"M param.":>9}{"MiB/img":>9}{"CPU s":>8}{"mAP":>8}{"mAP50":>8}{"minutes":>9}   '
          f'{args.epochs} epochs of {args.data}')
    for name, spent, metrics, minutes in rows:
        values = (metrics[f'coco/{args.task}_{metric}'] for metric in ('mAP', 'mAP_50'))
        print(f'{name:<18}{spent.parameters:>9.1f}{spent.mib:>9.1f}{spent.seconds:>8.2f}' +
              ''.join(f'{value:>8.3f}' for value in values) + f'{minutes:>9.1f}')
    return 0


def parse_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split('\n', 1)[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('data', type=Path, help='folder with annotations/, train/ and val/')
    parser.add_argument('--task', choices=KINDS, default='bbox', help='boxes alone, or boxes and masks')
    parser.add_argument('--models', nargs='+', choices=MODELS, default=['revbifpn_s0', 'resnet50_fpn'])
    parser.add_argument('--work-dir', type=Path, default='work_dirs/own_data')
    parser.add_argument('--epochs', type=int, default=12)
    parser.add_argument('--batch-size', type=int, default=2)
    parser.add_argument('--scale', type=int, nargs=2, default=(256, 192), help='longer and shorter side in pixels')
    parser.add_argument('--anchor-scale', type=int, default=8, help='side of the anchors, in strides (4 to 64 pixels)')
    parser.add_argument('--channels', type=int, default=64, help='of the feature pyramid and the heads; COCO: 256')
    parser.add_argument('--lr', type=float, default=1e-3, help='of AdamW')
    parser.add_argument('--seed', type=int, default=0)
    return parser.parse_args(argv)


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


def config_text(name, args):
    """The config of one model: its base, and what is the same for all."""
    base, own = MODELS[name]
    categories = json.loads((args.data / 'annotations' / 'train.json').read_text(encoding='utf-8'))['categories']
    classes = tuple(category['name'] for category in categories)
    settings = shared_settings(str(args.data.resolve()) + '/', classes, args)
    settings['model'].update(own)
    settings = {'_base_': base.format(KINDS[args.task]), **settings}
    return ''.join(f'{key} = {value!r}\n' for key, value in settings.items())


def shared_settings(data_root, classes, args):
    """Data, schedule and heads, as top-level entries of a config."""
    def loader(split, pipeline, **entries):
        dataset = dict(data_root=data_root, metainfo=dict(classes=classes), ann_file=f'annotations/{split}.json',
                       data_prefix=dict(img=f'{split}/'), pipeline=pipeline)
        return dict(dataset=dataset, **entries)

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
        test_evaluator=evaluator,
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
