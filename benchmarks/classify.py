"""A classifier from random weights on your own images: RevBiFPN-S0, trained three ways, and mmpretrain's ResNet-18.

Example:
    python benchmarks/classify.py DATA

DATA holds `train/` and `val/` with one folder of images per class. All runs use the ten lines of docs/own_data.md, see
the same images in the same order, resized crops and flips, and take the same steps; those of RevBiFPN start from the
same weights. Parameters, memory per image and processor time per step (one thread) are measured on images of the
training set.
"""
import argparse
import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import cost

ROOT = Path(__file__).resolve().parents[1]
REVBIFPN = 'mmrev::revbifpn/revbifpn-s0_8xb128_in1k.py'
MODES = {  # the config in the first line, and flags of tools/train.py
    'reversible': (REVBIFPN, []),
    'plain': (REVBIFPN, ['--cfg-options', *(f'model.{part}.reversible=False'
                                           for part in ('backbone', 'neck', 'head'))]),
    'bfloat16': (REVBIFPN, ['--amp']),
    'resnet18': ('mmpretrain::resnet/resnet18_8xb32_in1k.py', []),
}


def main(argv=None):
    """Train each mode, print what the first losses differ by, the best accuracies and the minutes."""
    args = parse_args(argv)
    runs = {mode: run(mode, args) for mode in args.modes}
    first = next(iter(runs))
    print(f'\n{"mode":<12}{"M param.":>9}{"MiB/img":>9}{"CPU s":>8}{"top-1":>8}{"best":>8}{"minutes":>9}   first '
          f'{args.compare} losses compared with {first}\'s, largest relative difference')
    for mode, (spent, losses, accuracies, minutes) in runs.items():
        pairs = list(zip(losses, runs[first][1]))[:args.compare]
        difference = max(abs(ours - other) / abs(other) for ours, other in pairs)
        print(f'{mode:<12}{spent.parameters:>9.1f}{spent.mib:>9.1f}{spent.seconds:>8.2f}'
              f'{accuracies[-1]:>8.2f}{max(accuracies):>8.2f}{minutes:>9.1f}   {difference:.1e}')
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
    """Train in one mode; returns what a step costs, all losses, the accuracy after every epoch and the minutes."""
    folder = args.work_dir / mode
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / f'{mode}.py'
    config.write_text(config_text(mode, args), encoding='utf-8')
    command = ['tools/train.py', str(config), '--work-dir', str(folder), *MODES[mode][1]]
    print(f'\n$ {shlex.join(["python", *command])}', flush=True)
    begin = time.time()
    subprocess.run([sys.executable, str(ROOT / command[0]), *command[1:]], check=True)
    minutes = (time.time() - begin) / 60
    scalars = max(folder.glob('*/vis_data/scalars.json'), key=lambda path: path.stat().st_mtime)
    records = [json.loads(line) for line in scalars.read_text(encoding='utf-8').splitlines()]
    losses = [record['loss'] for record in records if 'loss' in record]
    options = {option.split('=')[0]: False for option in MODES[mode][1] if option.endswith('=False')}
    return cost.measure(str(config), 'train', options=options), losses, [
        record['accuracy/top1'] for record in records if 'accuracy/top1' in record
    ], minutes


def config_text(mode, args):
    """The ten lines of docs/own_data.md for folders of classes, and what is the same for all networks."""
    text = (ROOT / 'docs' / 'own_data.md').read_text(encoding='utf-8')
    lines = re.search(r'```python\n(_base_ = [^\n]*in1k\.py.*?)```', text, re.DOTALL).group(1)
    classes = tuple(sorted(path.name for path in (args.data / 'train').iterdir() if path.is_dir()))
    own = f'data_root, classes, epochs = {str(args.data.resolve())!r}, {classes!r}, {args.epochs}'
    lines = re.sub('^_base_ = .*$', f'_base_ = {MODES[mode][0]!r}', lines, flags=re.MULTILINE)
    lines = re.sub('^data_root, classes, epochs = .*$', lambda _: own, lines, flags=re.MULTILINE)
    load, pack = dict(type='LoadImageFromFile'), dict(type='mmpretrain.PackInputs')
    train = [load, dict(type='mmpretrain.RandomResizedCrop', scale=args.resolution, crop_ratio_range=(0.35, 1.)),
             dict(type='mmpretrain.RandomFlip', prob=0.5, direction='horizontal'), pack]
    held_out = [load, dict(type='mmpretrain.ResizeEdge', scale=int(args.resolution / 0.875), edge='short'),
                dict(type='mmpretrain.CenterCrop', crop_size=args.resolution), pack]
    return f"""{lines}
model['train_cfg'] = None  # no mixup
train_dataloader.update(batch_size={args.batch_size}, num_workers=1, drop_last=True)
train_dataloader['dataset'].update(pipeline={train!r})
val_dataloader.update(batch_size={args.batch_size}, num_workers=1)
val_dataloader['dataset'].update(pipeline={held_out!r})
optim_wrapper.update(clip_grad=dict(max_norm=10., norm_type=2))
optim_wrapper['optimizer'].update(lr={args.lr})
param_scheduler.insert(0, dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=50))
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(max_keep_ckpts=1))
log_processor, randomness = dict(window_size=1), dict(seed={args.seed})
"""


if __name__ == '__main__':
    sys.exit(main())
