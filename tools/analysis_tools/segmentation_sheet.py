"""Draw images, their true labels and the predicted ones side by side into one picture.

Example:
    mmrev predict CONFIG CHECKPOINT images/val --out-dir predicted --out-format palette
    python tools/analysis_tools/segmentation_sheet.py images/val annotations/val predicted
"""
import argparse
import sys
from pathlib import Path
from typing import List, Optional

import numpy as np
from PIL import Image

MARGIN = 4  # pixels between panels


def main(argv: Optional[List[str]] = None) -> int:
    """Draw the sheet; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__.split('\n', 1)[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('images', type=Path, help='folder of images')
    parser.add_argument('truth', type=Path, help='folder of PNG files of labels, with the same names')
    parser.add_argument('predictions', type=Path, help='folder that `mmrev predict --out-format palette` wrote')
    parser.add_argument('--out', default='segmentation.png', help='picture to write')
    parser.add_argument('--number', type=int, default=8, help='how many images')
    parser.add_argument('--columns', type=int, default=2, help='images side by side, three panels each')
    args = parser.parse_args(argv)
    try:
        names = sorted(path.stem for path in args.predictions.glob('*.png'))[:args.number]
        if not names:
            raise OSError(f'no predictions in {args.predictions}')
        rows = [row(args, name) for name in names]
    except OSError as error:
        print(f'segmentation_sheet.py: {error}', file=sys.stderr)
        return 2
    sheet(rows, args.columns).save(args.out)
    print(f'{len(rows)} images, each next to its true and its predicted labels: {args.out}')
    return 0


def row(args: argparse.Namespace, name: str) -> np.ndarray:
    """One image and its two maps of labels, in the colors of the predictions' palette, `(H, 3 W, 3)`."""
    file = next(iter(sorted(args.images.glob(f'{name}.*'))), None)
    if file is None:
        raise OSError(f'there is no image {name} in {args.images}')
    predicted = Image.open(args.predictions / f'{name}.png')
    truth = Image.fromarray(np.array(Image.open(args.truth / f'{name}.png'))).convert('P')
    truth.putpalette(predicted.getpalette() or list(range(256)) * 3)
    panels = [np.array(panel.convert('RGB')) for panel in (Image.open(file), truth, predicted)]
    framed = [np.pad(panel, [(MARGIN, MARGIN)] * 2 + [(0, 0)], constant_values=255) for panel in panels]
    return np.concatenate(framed, 1)


def sheet(rows: List[np.ndarray], columns: int) -> Image.Image:
    """Rows of `columns` images; smaller ones are padded with white."""
    height, width = (max(image.shape[axis] for image in rows) for axis in (0, 1))
    padded = [np.pad(image, [(0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0)], constant_values=255)
              for image in rows]
    padded += [np.full_like(padded[0], 255)] * (-len(padded) % columns)
    lines = [np.concatenate(padded[i:i + columns], 1) for i in range(0, len(padded), columns)]
    return Image.fromarray(np.concatenate(lines))


if __name__ == '__main__':
    sys.exit(main())
