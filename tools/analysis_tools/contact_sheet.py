"""Draw several images into one picture, each with its ground truth next to the predictions.

Example:
    python tools/test.py CONFIG CHECKPOINT --out predictions.pkl
    python tools/analysis_tools/contact_sheet.py predictions.pkl data/digits/annotations/val.json --out detections.png
"""
import argparse
import sys
from pathlib import Path
from typing import List, Optional, Tuple

import cv2
import mmengine
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

PANEL_INCHES = 2.4
Drawn = Tuple[List[float], int, str, Optional[np.ndarray]]  # box (x, y, w, h), class index, label, mask
LABEL_BOX = dict(boxstyle='square,pad=0.12', linewidth=0)


def main(argv: Optional[List[str]] = None) -> int:
    """Draw the sheet; return the exit status."""
    args = parse_args(argv)
    try:
        predictions = load_predictions(args.predictions)
        coco = load_annotations(args.annotations)
        chosen = choose(predictions, args.images)
        draw_sheet(chosen, coco, args.out, args.score_thr, args.columns)
    except (OSError, ValueError) as error:
        print(f'contact_sheet.py: {error}', file=sys.stderr)
        return 2
    print(f'{len(chosen)} images, ground truth next to predictions: {args.out}')
    return 0


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split('\n', 1)[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('predictions', help='.pkl of `tools/test.py --out`; a pickle: open your own files only')
    parser.add_argument('annotations', help='COCO annotation file of the same images')
    parser.add_argument('--out', default='detections.png', help='picture to write')
    parser.add_argument('--images', type=int, default=8, help='how many images')
    parser.add_argument('--columns', type=int, default=2, help='images side by side, two panels each')
    parser.add_argument('--score-thr', type=float, default=0.5, help='least score of what is drawn')
    return parser.parse_args(argv)


def load_predictions(path: str) -> List[dict]:
    """Read the list of predictions that `tools/test.py --out` wrote."""
    if not Path(path).is_file():
        raise ValueError(f'no predictions at {path}: `python tools/test.py CONFIG CHECKPOINT --out {path}` writes them')
    predictions = mmengine.load(path)
    if not isinstance(predictions, list) or not predictions or 'pred_instances' not in predictions[0]:
        raise ValueError(f'{path} holds no predictions of a detector: pass what `tools/test.py --out` wrote')
    return predictions


def load_annotations(path: str) -> COCO:
    """Read a COCO annotation file."""
    if not Path(path).is_file():
        raise ValueError(f'no annotation file at {path}')
    return COCO(path)


def choose(predictions: List[dict], number: int) -> List[dict]:
    """Take ``number`` evenly spaced samples."""
    step = max(1, len(predictions) // number)
    return predictions[::step][:number]


def draw_sheet(samples: List[dict], coco: COCO, out: str, score_thr: float = 0.5, columns: int = 2) -> None:
    """Draw samples, each as ground truth and prediction side by side.

    Args:
        samples: Predictions.
        coco: Annotations of the same images.
        out: The picture.
        score_thr: Minimum score of drawn predictions.
        columns: Samples side by side.
    """
    rows = -(-len(samples) // columns)
    pictures = [read_image(sample['img_path']) for sample in samples]
    height, width = pictures[0].shape[:2]
    panel = PANEL_INCHES * height / width + 0.25
    figure = Figure(figsize=(2 * columns * PANEL_INCHES, rows * panel), layout='constrained')
    axes = figure.subplots(rows, 2 * columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for index, (sample, picture) in enumerate(zip(samples, pictures)):
        truth, found = axes[index // columns, 2 * (index % columns):][:2]
        objects = ground_truth(sample, coco), detections(sample, coco, score_thr)
        # There may be many objects of a single class, whose labels are redundant.
        masks_alone = len(coco.cats) == 1 and all(mask is not None for half in objects for *_, mask in half)
        draw_panel(truth, picture, objects[0], 'ground truth', masks_alone)
        draw_panel(found, picture, objects[1], 'prediction', masks_alone)
    figure.savefig(out, dpi=110)


def read_image(path: str) -> np.ndarray:
    """Read an image, ``(H, W, 3)``, blue first."""
    picture = cv2.imread(path) if Path(path).is_file() else None
    if picture is None:
        raise OSError(f'cannot read the image {path}: run this where the test ran, because paths are relative')
    return picture


def ground_truth(sample: dict, coco: COCO) -> List[Drawn]:
    """Every annotated object."""
    indices = {category: index for index, category in enumerate(coco.getCatIds())}
    return [(ann['bbox'], indices[ann['category_id']], coco.cats[ann['category_id']]['name'],
             coco.annToMask(ann) if ann.get('segmentation') else None)
            for ann in coco.loadAnns(coco.getAnnIds(imgIds=sample['img_id']))]


def detections(sample: dict, coco: COCO, score_thr: float) -> List[Drawn]:
    """Every prediction with at least ``score_thr``, the score in its label."""
    found = sample['pred_instances']
    names = [coco.cats[category]['name'] for category in coco.getCatIds()]
    objects = []
    for index, (corners, label, score) in enumerate(zip(found['bboxes'], found['labels'], found['scores'])):
        if score >= score_thr:
            left, top, right, bottom = corners.tolist()
            mask = coco_mask.decode(found['masks'][index]) if 'masks' in found else None
            objects.append(([left, top, right - left, bottom - top], int(label), f'{names[label]}  {score:.2f}', mask))
    return objects[::-1]  # the most confident is drawn last, over the others


def draw_panel(axis: Axes, picture: np.ndarray, objects: List[Drawn], title: str, masks_alone: bool = False) -> None:
    """Draw an image with its objects: a frame and a label each, and the mask where there is one.

    Args:
        axis: Axis to draw on.
        picture: ``(H, W, 3)``, blue first.
        objects: Objects to draw.
        title: Above the image.
        masks_alone: Whether to fill the masks, each in another color, instead of frames and labels.
    """
    height, width = picture.shape[:2]
    axis.imshow(picture[..., ::-1], interpolation='nearest', extent=(0, width, height, 0))
    axis.set_title(title, fontsize=8, pad=2)
    for number, ((left, top, w, h), index, label, mask) in enumerate(objects):
        if masks_alone:
            colour = to_rgba(f'C{number % 10}', 0.65)
            axis.imshow(mask[..., None] * np.array(colour), interpolation='nearest', extent=(0, width, height, 0))
            continue
        colour = f'C{index % 10}'
        axis.add_patch(Rectangle((left, top), w, h, fill=False, edgecolor=colour, linewidth=1.6))
        if mask is not None and mask.any():
            axis.contour(mask, levels=[0.5], colors=[colour], linewidths=0.8, extent=(0, width, 0, height))
        below = top < 0.09 * height  # no room for the label above
        axis.text(left, top + h if below else top, label, va='top' if below else 'bottom', fontsize=6.5, color='white',
                  bbox=dict(LABEL_BOX, facecolor=colour), clip_on=True)
    axis.set_xlim(0, width)
    axis.set_ylim(height, 0)


if __name__ == '__main__':
    sys.exit(main())
