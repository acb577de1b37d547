"""Detection, segmentation and classification data from scikit-learn's handwritten digits.

scikit-learn ships 1,797 real handwritten digits of 8x8 pixels, so a detector can be trained on real handwriting without
a download. Each digit is enlarged, slightly rotated and drawn in a light color on an uneven, darker background; boxes
and masks follow the strokes of the digit. A source digit is used in training or in validation images, never in both.
Equal :class:`DigitsSpec` produce identical bytes.

Read top down: the specification, the two tasks, one scene, its parts.
"""
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple

import cv2
import numpy as np

CLASSES = tuple(str(digit) for digit in range(10))
SPLITS = ('train', 'val')
TASKS = ('detection', 'semseg', 'classification')
SOURCE_SIDE = 8  # pixels of a source digit
VAL_SHARE = 0.2  # of the source digits of each class
GAP = 2  # pixels between the boxes of two digits
PLACING_TRIES = 60
DRAWING = 1  # increase it when the same specification would give other bytes


@dataclass(frozen=True)
class DigitsSpec:
    """Specification of a digits data set; equal specifications give identical files.

    Args:
        task: ``'detection'`` (COCO boxes and masks), ``'semseg'`` (the same images with maps of labels: 0 for the
            background, 1 to 10 for the digits 0 to 9) or ``'classification'`` (one folder per class).
        seed: Seed of everything random, including the split of the source digits.
        image_size: Side of the square images in pixels.
        digit_size: Minimum and maximum height of a digit in pixels.
        digits_per_image: Minimum and maximum number of digits in an image (not for classification).
        train_images: Number of training images (not for classification).
        val_images: Number of validation images (not for classification).

    Raises:
        ValueError: If a value is out of range, or if digits do not fit into an image.
    """
    task: str = 'detection'
    seed: int = 0
    image_size: int = 128
    digit_size: Tuple[int, int] = (24, 48)
    digits_per_image: Tuple[int, int] = (2, 5)
    train_images: int = 1000
    val_images: int = 200

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f'`task` must be one of {TASKS}, got {self.task!r}')
        for name in ('digit_size', 'digits_per_image'):
            least, greatest = getattr(self, name)
            if not 1 <= least <= greatest:
                raise ValueError(f'`{name}` must be (least, greatest) with 1 <= least <= greatest, '
                                 f'got {getattr(self, name)}')
        if min(self.seed, self.train_images - 1, self.val_images - 1) < 0:
            raise ValueError('`seed` must be at least 0, `train_images` and `val_images` at least 1, got '
                             f'{self.seed}, {self.train_images}, {self.val_images}')
        if self.image_size < 1.25 * self.digit_size[1]:
            raise ValueError(f'`image_size` must be at least 1.25 times the greatest `digit_size`, got '
                             f'{self.image_size} and {self.digit_size[1]}: enlarge the one or reduce the other')

    def as_dict(self) -> dict:
        """The specification and the version of the drawing as JSON types, on which the bytes depend."""
        return dict(json.loads(json.dumps(asdict(self))), drawing=DRAWING)


def build(spec: DigitsSpec, folder: Path,
          progress: Callable[[int, int, str], None] = lambda *_: None) -> Dict[str, int]:
    """Write the data set of ``spec`` into the existing, empty ``folder``.

    Args:
        spec: Specification of the data set.
        folder: Folder to write to.
        progress: Called with the number of images done, the total, and the name of the split.

    Returns:
        Number of images and, of those with several digits, digits in each split.
    """
    images, labels = load_source_digits()
    sources = split_sources(labels, spec.seed)
    writer = dict(detection=_write_detection_split, semseg=_write_semseg_split,
                  classification=_write_classification_split)[spec.task]
    counts = {}
    for split in SPLITS:
        counts.update(writer(spec, Path(folder), split, images, labels, sources[split], progress))
    return counts


def load_source_digits() -> Tuple[np.ndarray, np.ndarray]:
    """Return the source digits, ``(1797, 8, 8)`` in [0, 1], and their labels, ``(1797,)``."""
    from sklearn.datasets import load_digits
    digits = load_digits()
    return (digits.images / 16).astype(np.float32), digits.target.astype(int)


def split_sources(labels: np.ndarray, seed: int) -> Dict[str, np.ndarray]:
    """Distribute the source digits of each class over the splits; return indices by split name."""
    rng = np.random.default_rng([seed, len(SPLITS)])
    parts = {split: [] for split in SPLITS}
    for label in range(len(CLASSES)):
        indices = rng.permutation(np.flatnonzero(labels == label))
        held_out = round(VAL_SHARE * len(indices))
        parts['val'].extend(indices[:held_out])
        parts['train'].extend(indices[held_out:])
    return {split: np.sort(np.array(indices)) for split, indices in parts.items()}


def _scenes(spec, split, images, sources, progress):
    """Yield name, image and placed digits of each scene of a split."""
    total = spec.train_images if split == 'train' else spec.val_images
    deck = _Deck(sources, np.random.default_rng([spec.seed, SPLITS.index(split)]))
    for number in range(total):
        rng = np.random.default_rng([spec.seed, SPLITS.index(split), number])
        yield f'{number:05d}.png', *render_scene(spec, images, deck, rng)
        progress(number + 1, total, split)


def _write_detection_split(spec, folder, split, images, labels, sources, progress):
    (folder / split).mkdir()
    (folder / 'annotations').mkdir(exist_ok=True)
    records, annotations = [], []
    for name, picture, placed in _scenes(spec, split, images, sources, progress):
        record = dict(id=len(records) + 1, file_name=name, width=spec.image_size, height=spec.image_size)
        _write_png(folder / split / name, picture)
        records.append(record)
        for source, mask in placed:
            annotations.append(_annotation(len(annotations) + 1, record['id'], int(labels[source]), source, mask))
    _write_json(folder / 'annotations' / f'{split}.json', dict(
        info=dict(description='Handwritten digits of scikit-learn on uneven backgrounds', spec=spec.as_dict()),
        images=records,
        annotations=annotations,
        categories=[dict(id=index + 1, name=name, supercategory='digit') for index, name in enumerate(CLASSES)]))
    return {f'{split} images': len(records), f'{split} digits': len(annotations)}


def _write_semseg_split(spec, folder, split, images, labels, sources, progress):
    pictures, maps = folder / 'images' / split, folder / 'annotations' / split
    pictures.mkdir(parents=True)
    maps.mkdir(parents=True)
    counts = {f'{split} images': 0, f'{split} digits': 0}
    for name, picture, placed in _scenes(spec, split, images, sources, progress):
        truth = np.zeros(picture.shape[:2], np.uint8)
        for source, mask in placed:
            truth[mask] = 1 + labels[source]
        _write_png(pictures / name, picture)
        _write_png(maps / name, truth)
        counts[f'{split} images'] += 1
        counts[f'{split} digits'] += len(placed)
    return counts


def _write_classification_split(spec, folder, split, images, labels, sources, progress):
    for name in CLASSES:
        (folder / split / name).mkdir(parents=True)
    for number, source in enumerate(sources):
        rng = np.random.default_rng([spec.seed, SPLITS.index(split), number])
        picture = render_single(spec, images[source], rng)
        _write_png(folder / split / CLASSES[labels[source]] / f'{source:04d}.png', picture)
        progress(number + 1, len(sources), split)
    return {f'{split} images': len(sources)}


def render_scene(spec: DigitsSpec, images: np.ndarray, deck: '_Deck',
                 rng: np.random.Generator) -> Tuple[np.ndarray, List[Tuple[int, np.ndarray]]]:
    """Draw one image with several digits.

    Returns:
        The image, ``(H, W, 3)`` uint8, and for each digit its source index and mask, ``(H, W)`` bool.

    Raises:
        ValueError: If the minimum number of digits does not fit.
    """
    canvas = background(rng, spec.image_size)
    least, greatest = spec.digits_per_image
    heights = sorted(rng.uniform(*spec.digit_size, size=rng.integers(least, greatest + 1)), reverse=True)
    placed, boxes = [], []
    for height in heights:  # largest first: small ones fit into the gaps
        source = deck.draw()
        alpha = enlarge(images[source], height, rng.uniform(-12, 12))
        corner = _free_corner(alpha.shape, boxes, spec.image_size, rng)
        if corner is None:
            continue
        boxes.append((*corner, corner[0] + alpha.shape[0], corner[1] + alpha.shape[1]))
        placed.append((int(source), paint(canvas, alpha, corner, rng)))
    if len(placed) < least:
        raise ValueError(f'only {len(placed)} of at least {least} digits of {spec.digit_size} pixels fit into an '
                         f'image of {spec.image_size} pixels: enlarge the image or take fewer or smaller digits')
    return _to_bytes(canvas), placed


def render_single(spec: DigitsSpec, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw one digit, as tall as ``spec.digit_size`` allows, near the middle of an image: ``(H, W, 3)`` uint8."""
    canvas = background(rng, spec.image_size)
    alpha = enlarge(image, rng.uniform(*spec.digit_size), rng.uniform(-8, 8))
    free = np.array(canvas.shape[:2]) - alpha.shape
    corner = tuple(int(side) for side in np.clip(free / 2 + rng.uniform(-0.15, 0.15, 2) * free, 0, free))
    paint(canvas, alpha, corner, rng)
    return _to_bytes(canvas)


def background(rng: np.random.Generator, side: int) -> np.ndarray:
    """An uneven background: a brightness gradient and soft blotches over a muted color, ``(side, side, 3)``."""
    colour = rng.uniform(25, 150, size=3) * 0.35 + rng.uniform(25, 150) * 0.65
    blotches = cv2.resize(rng.normal(0, 9, (5, 5, 3)).astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    rows, columns = np.mgrid[-1:1:side * 1j, -1:1:side * 1j]
    slope = rng.uniform(-18, 18) * rows + rng.uniform(-18, 18) * columns
    return np.clip(colour + blotches + slope[..., None], 0, 255).astype(np.float32)


def enlarge(image: np.ndarray, height: float, degrees: float) -> np.ndarray:
    """Enlarge an 8x8 digit so that 8 rows are ``height`` pixels, rotate it, and crop it to its strokes.

    Returns:
        Coverage of each pixel, ``(h, w)`` in [0, 1]; the outermost rows and columns reach 0.5.
    """
    side = int(np.ceil(height * 1.5))
    matrix = cv2.getRotationMatrix2D(((SOURCE_SIDE - 1) / 2, (SOURCE_SIDE - 1) / 2), degrees, height / SOURCE_SIDE)
    matrix[:, 2] += (side - SOURCE_SIDE) / 2
    smooth = cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_CUBIC)
    ramp = np.clip((smooth - 0.2) / 0.5, 0, 1)
    alpha = ramp * ramp * (3 - 2 * ramp)  # smoothstep: sharpens the edges that the enlargement blurred
    rows, columns = np.flatnonzero((alpha >= 0.5).any(1)), np.flatnonzero((alpha >= 0.5).any(0))
    return alpha[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1]


def paint(canvas: np.ndarray, alpha: np.ndarray, corner: Tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Draw a digit in a lighter color on ``canvas`` in place; return its mask, ``(H, W)`` bool."""
    top, left = corner
    window = canvas[top:top + alpha.shape[0], left:left + alpha.shape[1]]
    colour = np.clip(rng.uniform(window.mean() + 80, 255) + rng.normal(0, 25, 3), 0, 255)
    window += alpha[..., None] * (colour - window)
    mask = np.zeros(canvas.shape[:2], dtype=bool)
    mask[top:top + alpha.shape[0], left:left + alpha.shape[1]] = alpha >= 0.5
    return mask


class _Deck:
    """Source digits in random order; each is used once before any is repeated."""

    def __init__(self, sources: np.ndarray, rng: np.random.Generator):
        self.sources, self.rng, self.left = sources, rng, []

    def draw(self) -> int:
        if not self.left:
            self.left = list(self.rng.permutation(self.sources))
        return self.left.pop()


def _free_corner(shape: Sequence[int], boxes: List[tuple], side: int,
                 rng: np.random.Generator) -> Optional[Tuple[int, int]]:
    """A random top left corner at which a digit of ``shape`` keeps its distance from ``boxes``, or None."""
    for _ in range(PLACING_TRIES):
        top, left = (int(rng.integers(0, side - extent + 1)) for extent in shape)
        bottom, right = top + shape[0], left + shape[1]
        if all(bottom + GAP <= box[0] or box[2] + GAP <= top or right + GAP <= box[1] or box[3] + GAP <= left
               for box in boxes):
            return top, left
    return None


def _annotation(number: int, image_id: int, label: int, source: int, mask: np.ndarray) -> dict:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = [int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)]
    return dict(id=number, image_id=image_id, category_id=label + 1, bbox=box, area=int(mask.sum()), iscrowd=0,
                segmentation=run_lengths(mask), source_digit=source)


def run_lengths(mask: np.ndarray) -> dict:
    """COCO's run-length encoding, column by column from background (polygons cannot have the holes of digits)."""
    flat = np.concatenate([[False], mask.ravel(order='F')])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], changes, [mask.size]]))
    return dict(size=list(mask.shape), counts=counts.tolist())


def _to_bytes(canvas: np.ndarray) -> np.ndarray:
    return np.round(np.clip(canvas, 0, 255)).astype(np.uint8)


def _write_png(path: Path, picture: np.ndarray) -> None:
    done, data = cv2.imencode('.png', picture)
    if not done:
        raise OSError(f'OpenCV could not encode {path}')
    path.write_bytes(data.tobytes())


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, separators=(',', ':')) + '\n', encoding='utf-8')
