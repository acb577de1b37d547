"""A RevBiFPN classifier from random weights on one's own images, trained reversibly, plainly and in bfloat16.

Example:
    python benchmarks/classify.py DATA

DATA holds `train/` and `val/` with one folder of images per class. All runs begin with the same weights, see the same
images in the same order and differ in the way they train alone.
"""
import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODES = {  # flags of tools/train.py
    'reversible': [],
    'plain': ['--cfg-options', *(f'model.{part}.reversible=False' for part in ('backbone', 'neck', 'head'))],
    'bfloat16': ['--amp'],
}


def main(argv=None):
    """Train each mode, print what the first losses differ by, the best accuracies and the minutes."""
    args = parse_args(argv)
    runs = {mode: run(mode, args) for mode in args.modes}
    first = next(iter(runs))
    print(f'\n{"mode":<12}{"top-1":>8}{"best":>8}{"minutes":>9}   first {args.compare} losses beside {first}\'s, '
          f'largest relative difference')
    for mode, (losses, accuracies, minutes) in runs.items():
        pairs = list(zip(losses, runs[first][0]))[:args.compare]
        difference = max(abs(ours - other) / abs(other) for ours, other in pairs)
        print(f'{mode:<12}{accuracies[-1]:>8.2f}{max(accuracies):>8.2f}{minutes:>9.1f}   {difference:.1e}')
    return 0


def parse_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split('\n', 1)[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('data', type=Path, help='folder with train/ and val/, in each a folder of images per class')
    parser.add_argument('--modes', nargs='+', choices=MODES, default=list(MODES))
    parser.add_argument('--work-dir', type=Path, default='work_dirs/classify')
    parser.add_argument('--epochs', type=int, default=8)
    parser.add_argument('--batch-size', type=int, default=32)
    parser.add_argument('--resolution', type=int, default=96, help='side of the images in pixels')
    parser.add_argument('--lr', type=float, default=1e-3, help='of AdamW')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--compare', type=int, default=50, help='losses to compare')
    return parser.parse_args(argv)


def run(mode, args):
    """Train in one mode; returns the loss of every step, the accuracy after every epoch and the minutes."""
    folder = args.work_dir / mode
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / 'revbifpn_s0.py'
    config.write_text(config_text(args), encoding='utf-8')
    command = ['tools/train.py', str(config), '--work-dir', str(folder), *MODES[mode]]
    print(f'\n$ {shlex.join(["python", *command])}', flush=True)
    begin = time.time()
    subprocess.run([sys.executable, str(ROOT / command[0]), *command[1:]], check=True)
    minutes = (time.time() - begin) / 60
    scalars = max(folder.glob('*/vis_data/scalars.json'), key=lambda path: path.stat().st_mtime)
    records = [json.loads(line) for line in scalars.read_text(encoding='utf-8').splitlines()]
    losses = [record['loss'] for record in records if 'loss' in record]
    return losses, [record['accuracy/top1'] for record in records if 'accuracy/top1' in record], minutes


def config_text(args):
    """The config: ImageNet's, with other data and a short schedule."""
    root = str(args.data.resolve())
    classes = tuple(sorted(path.name for path in (args.data / 'train').iterdir() if path.is_dir()))
    load, pack = dict(type='LoadImageFromFile'), dict(type='mmpretrain.PackInputs')
    resize = dict(type='mmpretrain.RandomResizedCrop', scale=args.resolution, crop_ratio_range=(0.35, 1.))
    flip = dict(type='mmpretrain.RandomFlip', prob=0.5, direction='horizontal')
    fit = dict(type='mmpretrain.ResizeEdge', scale=int(args.resolution / 0.875), edge='short')
    crop = dict(type='mmpretrain.CenterCrop', crop_size=args.resolution)

    def loader(split, pipeline, **entries):
        dataset = dict(_delete_=True, type='mmpretrain.CustomDataset', data_root=root, data_prefix=split,
                       classes=classes, pipeline=pipeline)
        return dict(batch_size=args.batch_size, num_workers=1, dataset=dataset, **entries)

    held_out = loader('val', [load, fit, crop, pack])
    settings = dict(
        data_preprocessor=dict(num_classes=len(classes)),
        model=dict(
            head=dict(num_classes=len(classes), dropout_rate=0.1), train_cfg=None),
        train_dataloader=loader('train', [load, resize, flip, pack], drop_last=True),
        val_dataloader=held_out,
        test_dataloader=held_out,
        val_evaluator=dict(topk=(1, )),
        test_evaluator=dict(topk=(1, )),
        train_cfg=dict(max_epochs=args.epochs),
        optim_wrapper=dict(
            optimizer=dict(_delete_=True, type='AdamW', lr=args.lr, weight_decay=0.05),
            clip_grad=dict(max_norm=10., norm_type=2)),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50),
            dict(type='CosineAnnealingLR', T_max=args.epochs, eta_min=args.lr / 100, by_epoch=True, begin=0,
                 end=args.epochs, convert_to_iter_based=True)],
        custom_hooks=[],
        default_hooks=dict(logger=dict(interval=1), checkpoint=dict(max_keep_ckpts=1)),
        log_processor=dict(window_size=1),
        randomness=dict(seed=args.seed))
    base = "_base_ = 'mmrev::revbifpn/revbifpn-s0_8xb128_in1k.py'"
    return '\n'.join([base, *(f'{key} = {value!r}' for key, value in settings.items()), ''])


if __name__ == '__main__':
    sys.exit(main())
