"""Make the digits data set, train a reversible detector or segmentor on it, evaluate it, draw what it finds.

Everything comes from the public tools; each command is printed before it runs, so that it can be repeated by hand.
An interrupted run continues from its last checkpoint; after a complete run, a new one begins in another folder.
"""
import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Tuple

TOOLS = Path(__file__).resolve().parent
CONFIGS = TOOLS.parent / 'configs' / 'revbifpn'


class Task(NamedTuple):
    """What is trained: its config, its data as the config has it, from the working directory, and its metrics."""
    config: Path
    data: Path
    what: str
    metrics: Dict[str, str]
    picture: str = 'detections.png'


TASKS = dict(
    detection=Task(CONFIGS / 'faster_rcnn_revbifpn_s0_digits.py', Path('data/digits'),
                   'bounding boxes; mAP of each digit on the right',
                   {'coco/bbox_mAP': 'mAP', 'coco/bbox_mAP_50': 'mAP50', 'coco/bbox_mAP_75': 'mAP75'}),
    semseg=Task(CONFIGS / 'fpn_revbifpn-s0_digits.py', Path('data/digits_seg'), 'labels of pixels, in percent',
                dict(mIoU='mIoU', mAcc='mAcc', aAcc='aAcc'), 'segmentation.png'))
RESULT = 'result.json'  # in a run's folder: marks a complete run


class StepFailed(Exception):
    """A step ended with an error, which it has reported itself."""

    def __init__(self, status: int):
        super().__init__(status)
        self.status = status


def main(argv: Optional[List[str]] = None) -> int:
    """Run the steps; returns the exit status."""
    args = parse_args(argv)
    task = TASKS[args.task]
    run, resume = run_folder(Path(args.work_dir or f'work_dirs/quickstart{"_semseg" * (args.task == "semseg")}'))
    try:
        make_data(task, args)
        seconds = train(task, run, resume, args)
        metrics = evaluate(task, run, args)
    except StepFailed as failure:
        print(f'quickstart stopped in {shown(run)}. See the message above; run it again to continue.',
              file=sys.stderr)
        return failure.status
    except KeyboardInterrupt:
        print(f'\nquickstart interrupted in {shown(run)}; run it again to continue.', file=sys.stderr)
        return 130
    (run / RESULT).write_text(json.dumps(metrics, indent=1) + '\n', encoding='utf-8')
    print(summary(task, run, metrics, seconds))
    return 0


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split('\n', 1)[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--task', choices=TASKS, default='detection')
    parser.add_argument('--work-dir', help='runs go into folders run1, run2, ... of it; by default '
                        'work_dirs/quickstart or work_dirs/quickstart_semseg')
    parser.add_argument('--train-images', type=int, default=1000, help='if the data set is not there yet')
    parser.add_argument('--val-images', type=int, default=200, help='if the data set is not there yet')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='passed on to train and test')
    return parser.parse_args(argv)


def run_folder(parent: Path) -> Tuple[Path, bool]:
    """The folder of this run, and whether a training in it is to be resumed."""
    runs = sorted(parent.glob('run*[0-9]'), key=lambda path: int(path.name[3:]) if path.name[3:].isdigit() else 0)
    last = runs[-1] if runs else None
    if last and not (last / RESULT).exists():
        return last, (last / 'last_checkpoint').exists()
    return parent / f'run{int(last.name[3:]) + 1 if last else 1}', False


def make_data(task: Task, args: argparse.Namespace) -> None:
    """Generate the data set unless it exists."""
    if task.data.exists():
        print(f'{task.data} exists and is used unchanged')
        return
    call('dataset_converters/digits.py', '--task', args.task, '--out', task.data, '--train-images', args.train_images,
         '--val-images', args.val_images)


def train(task: Task, run: Path, resume: bool, args: argparse.Namespace) -> float:
    """Train in the folder ``run``; returns the seconds it took."""
    begin = time.time()
    call('train.py', shown(task.config), '--work-dir', run, *(['--resume'] if resume else []), *options(args))
    return time.time() - begin


def evaluate(task: Task, run: Path, args: argparse.Namespace) -> dict:
    """Test the best checkpoint and draw; returns the metrics."""
    best = max(run.glob('best_*.pth'), key=lambda path: path.stat().st_mtime)
    predictions = run / 'predictions.pkl'
    call('test.py', shown(task.config), best, '--work-dir', run / 'test', '--out', predictions, *options(args))
    if args.task == 'semseg':
        images, drawn = task.data / 'images' / 'val', run / 'predicted'
        call('predict.py', shown(task.config), best, images, '--out-dir', drawn, '--out-format', 'palette',
             *options(args))
        call('analysis_tools/segmentation_sheet.py', images, task.data / 'annotations' / 'val', drawn,
             '--out', run / task.picture)
    else:
        call('analysis_tools/contact_sheet.py', predictions, task.data / 'annotations' / 'val.json',
             '--out', run / task.picture)
    curves = latest(run, '*/curves.png')
    if curves:
        shutil.copy(curves, run / 'curves.png')
    return json.loads(latest(run / 'test', '*/*.json').read_text(encoding='utf-8').splitlines()[-1])


def summary(task: Task, run: Path, metrics: dict, seconds: float) -> str:
    """The closing text: the table, and where everything is."""
    best = latest(run, 'best_*.pth')
    per_class = {key.split('/')[1][:-len('_precision')]: value
                 for key, value in metrics.items() if key.endswith('_precision')}
    heads = [*task.metrics.values(), *(f'"{name}"' for name in per_class)]
    values = [metrics[key] for key in task.metrics] + list(per_class.values())
    rule = '-' * 7 * len(heads)
    places = dict(picture=run / task.picture, curves=run / 'curves.png', checkpoint=best,
                  predictions=run / 'predictions.pkl', metrics=run / RESULT, data=task.data)
    return '\n'.join([
        '', f'Validation, {task.what}. Training took {seconds / 60:.1f} minutes.',
        rule, ''.join(f'{head:>7}' for head in heads), ''.join(f'{value:>7.3f}' for value in values), rule,
        *(f'{name + ":":<13}{shown(place)}' for name, place in places.items())])


def call(tool: str, *arguments) -> None:
    """Run a tool of this folder and show its command line.

    Raises:
        StepFailed: If it ends with an error.
    """
    command = [sys.executable, str(shown(TOOLS / tool)), *map(str, arguments)]
    print(f'\n$ {shlex.join(["python", *command[1:]])}', flush=True)
    status = subprocess.run(command).returncode
    if status:
        raise StepFailed(status)


def options(args: argparse.Namespace) -> List[str]:
    """``--cfg-options`` as the tools expect it."""
    return ['--cfg-options', *args.cfg_options] if args.cfg_options else []


def latest(folder: Path, pattern: str) -> Optional[Path]:
    """The newest file in ``folder`` that matches; None if there is none."""
    return max(folder.glob(pattern), key=lambda path: path.stat().st_mtime, default=None)


def shown(path: Path) -> Path:
    """A path as short as possible from here."""
    path = Path(path).absolute()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


if __name__ == '__main__':
    sys.exit(main())
