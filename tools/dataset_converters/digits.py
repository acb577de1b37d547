"""Make a data set for detection, segmentation or classification of scikit-learn's digits; no download is needed.

Examples:
    python tools/dataset_converters/digits.py                          # COCO boxes and masks in data/digits
    python tools/dataset_converters/digits.py --task semseg            # images and maps of labels in data/digits_seg
    python tools/dataset_converters/digits.py --task classification    # one folder per class in data/digits_cls

The folder appears under its name only when it is complete. Same options, same bytes.
"""
import argparse
import contextlib
import fcntl
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Dict, Iterator, List, Optional

from mmrev.datasets.digits import TASKS, DigitsSpec, build

MARKER = 'mmrev_digits.json'  # marks a folder as ours and lists what is in it
DEFAULT_OUT = dict(detection='data/digits', semseg='data/digits_seg', classification='data/digits_cls')
TASK_DEFAULTS = dict(
    detection=dict(image_size=128, digit_size=(24, 48)),
    semseg=dict(image_size=128, digit_size=(24, 48)),
    classification=dict(image_size=32, digit_size=(20, 25)))


class FolderError(Exception):
    """Raised if the output folder cannot be used; the message states why and what to do."""


def main(argv: Optional[List[str]] = None) -> int:
    """Generate the data set; return the exit status."""
    args = parse_args(argv)
    try:
        spec = spec_from(args)
        out = Path(args.out or DEFAULT_OUT[spec.task])
        with alone_in(out.absolute().parent):
            if is_complete(out, spec, args.overwrite):
                print(f'{out} already holds this data set; nothing to do')
                return 0
            counts = make(spec, out, quiet=args.quiet)
    except (FolderError, ValueError, OSError) as error:
        print(f'digits.py: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('\ndigits.py: interrupted; no data set was written', file=sys.stderr)
        return 130
    print(f'{spec.task} data set in {out}: ' + ', '.join(f'{number} {name}' for name, number in counts.items()))
    return 0


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other run of this tool works in `folder`: the second finds what the first has made."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split('\n', 1)[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    defaults = DigitsSpec()
    parser.add_argument('--task', choices=TASKS, default='detection')
    parser.add_argument('--out', metavar='DIR',
                        help='folder to make; by default data/digits, data/digits_seg or data/digits_cls')
    parser.add_argument('--seed', type=int, default=defaults.seed)
    parser.add_argument('--image-size', type=int, help='side in pixels; 128, for classification 32, if not given')
    parser.add_argument('--digit-size', type=int, nargs=2, metavar=('MIN', 'MAX'),
                        help='height in pixels; 24 48, for classification 20 25, if not given')
    parser.add_argument('--digits-per-image', type=int, nargs=2, metavar=('MIN', 'MAX'),
                        default=defaults.digits_per_image, help='not for classification')
    parser.add_argument('--train-images', type=int, default=defaults.train_images, help='not for classification')
    parser.add_argument('--val-images', type=int, default=defaults.val_images, help='not for classification')
    parser.add_argument('--overwrite', action='store_true',
                        help='replace a folder that this tool made with other options')
    parser.add_argument('--quiet', action='store_true', help='show no progress')
    return parser.parse_args(argv)


def spec_from(args: argparse.Namespace) -> DigitsSpec:
    """The specification that the command line describes, filled up with the task's defaults."""
    sizes = TASK_DEFAULTS[args.task]
    return DigitsSpec(
        task=args.task,
        seed=args.seed,
        image_size=sizes['image_size'] if args.image_size is None else args.image_size,
        digit_size=tuple(args.digit_size or sizes['digit_size']),
        digits_per_image=tuple(args.digits_per_image),
        train_images=args.train_images,
        val_images=args.val_images)


def is_complete(out: Path, spec: DigitsSpec, overwrite: bool) -> bool:
    """Return whether ``out`` already holds the data set of ``spec``.

    Raises:
        FolderError: If ``out`` contains anything that must not be replaced.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    found = read_marker(out)
    if found is None:
        raise FolderError(f'{out} exists and was not made by this tool, so it is not changed; choose another --out')
    if found == spec.as_dict():
        return True
    if not overwrite:
        differing = ', '.join(f'{key}={found.get(key)}' for key, value in spec.as_dict().items()
                              if found.get(key) != value)
        raise FolderError(f'{out} holds a digits data set made with other options ({differing}): '
                          'choose another --out, or replace it with --overwrite')
    return False


def make(spec: DigitsSpec, out: Path, quiet: bool = False) -> Dict[str, int]:
    """Build the data set in a temporary folder, and rename it to ``out`` when it is complete.

    Returns:
        The result of :func:`mmrev.datasets.digits.build`.
    """
    partial = out.with_name(f'{out.name}.partial')
    if partial.exists():
        if read_marker(partial) is None:
            raise FolderError(f'{partial} exists and was not made by this tool: move it away or choose another --out')
        shutil.rmtree(partial)  # left behind by an interrupted run
    partial.mkdir(parents=True)
    try:
        (partial / MARKER).write_text(json.dumps(spec.as_dict(), indent=1) + '\n', encoding='utf-8')
        counts = build(spec, partial, progress=(lambda *_: None) if quiet else show_progress)
        if out.exists():
            shutil.rmtree(out)  # empty or ours: `is_complete` has seen to that
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return counts


def read_marker(folder: Path) -> Optional[dict]:
    """The record of this tool in a folder that it made; None for any other folder."""
    try:
        return json.loads((folder / MARKER).read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return None


def show_progress(done: int, total: int, what: str) -> None:
    """Print the share of a split's images that is done: one line that is updated, only on a terminal."""
    if sys.stderr.isatty():
        print(f'\r{what}: {done}/{total} images', end='\n' if done == total else '', file=sys.stderr, flush=True)
    elif done == total:
        print(f'{what}: {total} images', file=sys.stderr, flush=True)


if __name__ == '__main__':
    sys.exit(main())
