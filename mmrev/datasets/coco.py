"""Facts from a COCO-format annotation file, without reading all of it."""
import json
import math
import mmap
import os.path as osp
from collections import Counter
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

from mmrev.problems import Problem, ProblemError, phase

NEEDED = ('id', 'image_id', 'category_id', 'bbox', 'area', 'iscrowd')  # by mmdet and, the last one, pycocotools
_USUAL = {'area': '; it is width * height of the box where there is no mask', 'iscrowd': '; it is 0 for one object'}


def category_names(file: str) -> Optional[Sequence[str]]:
    """The names in ``categories`` of a COCO-format file of any size, or None if it has none that can be read."""
    if not file.endswith('.json') or not osp.isfile(file):
        return None
    with open(file, 'rb') as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as text:
        key = text.rfind(b'"categories"')
        begin = len(text) if key < 0 else text.find(b'[', key)
        part = text[begin:begin + 2 ** 21].decode(errors='replace')
    try:
        return [category['name'] for category in json.JSONDecoder().raw_decode(part)[0]]
    except (ValueError, TypeError, KeyError):
        return None


def mislabelled(file: str, numbered: Sequence[str], classes: Sequence[str], path: str) -> Iterator[Problem]:
    """Labels of mmdet that stand for another class than ``metainfo.classes`` says.

    Args:
        file: Annotation file, for the message.
        numbered: Those of `classes` that are among its categories, in its order, which is the order of the labels.
        classes: ``metainfo.classes``, whose order is that of the names.
        path: Path of the data set in the config, for the message.
    """
    for label, (category, name) in enumerate(zip(numbered, classes)):
        if category != name:
            missing = [name for name in classes if name not in numbered]
            yield Problem(f'label {label} is the category `{category}` in `{file}`, and `{name}` in metainfo.classes '
                          f'({path})', f'Add or rename {", ".join(map(repr, missing))} in the categories of the '
                          'file, in the order of metainfo.classes (they need no objects)' if missing else
                          f'mmdet takes the order of the file: set metainfo=dict(classes={tuple(numbered)!r}) for each '
                          'data set')
            return


def wrong_entries(file: str, skipped: bool = False, needed: Sequence[str] = ()) -> Iterator[Tuple[str, bool]]:
    """Entries of a COCO-format file that mmdet would silently skip or train on: their number, and the first one.

    Args:
        file: Its path.
        skipped: Whether wrong annotations will be left out, see `skip_wrong_annotations`; others cannot.
        needed: Keys that each annotation of an object must have, such as ``area``.

    Yields:
        What is wrong, and whether these annotations could be left out.

    Raises:
        ProblemError: If the file has another format.
    """
    with open(file, encoding='utf-8') as stream:
        content = json.load(stream)
    if isinstance(content, dict) and not {'images', 'categories'} <= content.keys():
        raise ProblemError(f'`{file}` is not in COCO format: it has {", ".join(list(content)[:5]) or "nothing"}',
                           'Convert it to a file with images, annotations and categories')
    for what in counted((*wrong_descriptions(content), *missing_keys(content, needed))):
        yield what, False
    for what in counted((what, where) for what, where, _ in wrong_annotations(content)) if not skipped else ():
        yield what, True


def missing_keys(content: Any, needed: Sequence[str]) -> Iterator[Tuple[str, str]]:
    """Which of the needed keys an annotation lacks, or has without a value, and which one it is."""
    for number, entry in enumerate(_entries(content, 'annotations')):
        for key in needed if 'segments_info' not in entry else ():  # those are of panoptic segmentation
            if entry.get(key) in (None, [], {}, ''):
                yield f'no `{key}`', f'annotation {entry.get("id", f"at place {number}")}{_USUAL.get(key, "")}'


def image_apart(first: str, second: str, most: int = 1 << 26) -> str:
    """An image of a COCO-format file that another does not list, or ''; files above `most` bytes are not read."""
    files, ids = (first, second), []
    if not all(file.endswith('.json') and osp.isfile(file) and osp.getsize(file) <= most for file in files) or (
            osp.samefile(*files)):
        return ''
    for file in files:
        with open(file, encoding='utf-8') as stream, phase(f'reading `{file}`', 'Fix that file'):
            ids.append([_id(entry.get('id')) for entry in _entries(json.load(stream), 'images')])
    known = set(ids[1])
    return next((f'image {image!r}' for image in ids[0] if image not in known), '')


def have_nothing_in_common(first: str, second: str, most: int = 1 << 26) -> bool:
    """Whether two COCO-format files both have annotations, but none in common.

    Args:
        first: Path of a file.
        second: Path of another file.
        most: Size in bytes above which a file is not read.

    Raises:
        ProblemError: If a file is not valid JSON.
    """
    files, found = (first, second), []
    if not all(file.endswith('.json') and osp.isfile(file) and osp.getsize(file) <= most for file in files):
        return False
    for file in () if osp.samefile(*files) else files:
        with open(file, encoding='utf-8') as stream, phase(f'reading `{file}`', 'Fix that file'):
            entries = _entries(json.load(stream), 'annotations')
        found.append({repr([entry.get(key) for key in ('image_id', 'category_id', 'bbox')]) for entry in entries})
    return bool(found) and all(found) and found[0].isdisjoint(found[1])


def counted(wrong: Iterable[Tuple[str, str]]) -> Iterator[str]:
    """One text for each kind of mistake."""
    found: Dict[str, List[str]] = {}
    for what, where in wrong:
        found.setdefault(what, []).append(where)
    for what, places in found.items():
        yield f'{len(places)} with {what}, first {places[0]}'


def _entries(content: Any, part: str) -> List[Dict[str, Any]]:
    entries = content.get(part) if isinstance(content, dict) else None
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _id(value: Any) -> Any:
    """An id that can be a key; 1 and '1' are two."""
    return value if isinstance(value, (int, float, str)) else repr(value)


def wrong_descriptions(content: Any) -> Iterator[Tuple[str, str]]:
    """What is wrong with images and categories or ids, and where."""
    for part in ('images', 'annotations', 'categories'):
        for key in ('id', 'name') if part == 'categories' else ('id', ):
            for value, number in Counter(str(entry.get(key)) for entry in _entries(content, part)
                                        if key in entry or key == 'id').items():
                if number > 1:
                    yield f'the same {key} in `{part}`', f'{key} {value}'
        entries = content.get(part) if isinstance(content, dict) else None
        if isinstance(content, dict) and part in content and not isinstance(entries, list):
            yield f'a `{part}` that is no list', str(entries)[:60]
        for place, entry in enumerate(entries if isinstance(entries, list) else ()):
            if not isinstance(entry, dict):
                yield f'an entry of `{part}` that is no object', f'at place {place}: {str(entry)[:60]}'
    for entry in _entries(content, 'annotations'):
        if not isinstance(entry.get('id', 0), (int, float)) or entry.get('id') != entry.get('id'):
            yield 'an id that is not a number', f'annotation {entry["id"]!r}'  # pycocotools computes with it
    for part, key, other in (('categories', 'name', 'name'), ('images', 'file_name', 'coco_url')):  # LVIS has addresses
        for entry in _entries(content, part):
            value = entry.get(key, entry.get(other))
            if not isinstance(value, str):
                yield (f'no `{key}`' if value is None else f'a `{key}` that is no text',
                       f'{"category" if key == "name" else "image"} {entry.get("id")!r}{f": {value!r}"[:60]}')
    yield from corners(content)
    for entry in _entries(content, 'images'):
        sides = [entry.get(side) for side in ('height', 'width')]
        if not all(isinstance(side, int) and side > 0 for side in sides):
            yield 'an invalid width or height', f'image {entry.get("id")}: {sides}'


def corners(content: Any) -> Iterator[Tuple[str, str]]:
    """Boxes that are x1, y1, x2, y2: some reach beyond their image as x, y, width, height, and all fit as corners."""
    images, found = {_id(entry.get('id')): entry for entry in _entries(content, 'images')}, []
    for entry in _entries(content, 'annotations'):
        box, image = entry.get('bbox'), images.get(_id(entry.get('image_id')), {})
        sides = (image.get('width'), image.get('height'))
        if not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, (*box, *sides)))):
            continue
        for begin, end, side in zip(box, box[2:], sides):
            if not begin <= end <= side:
                return
            if begin + end > side + 2:
                found.append(f'annotation {entry.get("id")}: {box}')
    for place in dict.fromkeys(found):
        yield 'a box beyond its image, as if it were x1, y1, x2, y2 and not x, y, width, height', place


def wrong_annotations(content: Any) -> Iterator[Tuple[str, str, Dict[str, Any]]]:
    """What is wrong with an annotation, which one it is, and the annotation."""
    images = {_id(entry.get('id')): entry for entry in _entries(content, 'images')}
    categories = {_id(entry.get('id')) for entry in _entries(content, 'categories')}
    for entry in _entries(content, 'annotations'):
        box, mask, which = entry.get('bbox'), entry.get('segmentation'), f'annotation {entry.get("id")}'
        for key, known in (('image_id', images), ('category_id', categories)):
            if key in entry and _id(entry[key]) not in known:
                yield f'an unknown `{key}`', f'{which}: {entry[key]!r}', entry
        if not (isinstance(box, list) and all(map(_is_number, box))):
            if box not in (None, ''):
                yield 'a box that is not a list of four numbers', f'{which}: {str(box)[:60]}', entry
        elif box:
            if len(box) != 4 or not all(map(math.isfinite, box)) or min(box[2:]) < 0:
                yield 'an invalid box', f'{which}: {box}', entry
            elif _is_outside(box, images.get(_id(entry.get('image_id')), {})):
                yield 'a box outside of its image', f'{which}: {box}', entry
        if entry.get('area') is not None and not (_is_number(entry['area']) and 0 <= entry['area'] < math.inf):
            yield 'an invalid area', f'{which}: {entry["area"]!r}'[:200], entry
        if entry.get('iscrowd') not in (None, 0, 1):
            yield 'an `iscrowd` that is neither 0 nor 1', f'{which}: {entry["iscrowd"]!r}'[:200], entry
        if isinstance(mask, list) and not all(isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0
                                              and all(isinstance(value, (int, float)) and math.isfinite(value)
                                                      for value in polygon) for polygon in mask):
            yield 'an invalid polygon', f'{which}: {str(mask)[:60]}', entry
        elif isinstance(mask, list) and any(map(_outside_of(images.get(_id(entry.get('image_id')), {})), mask)):
            yield 'a polygon outside of its image', f'{which}: {str(mask)[:60]}', entry
        if mask is not None and not isinstance(mask, (list, dict)):
            yield 'a `segmentation` that is neither polygons nor RLE', f'{which}: {str(mask)[:60]}', entry
        if isinstance(mask, dict) and not _is_run_lengths(mask, images.get(_id(entry.get('image_id')), {})):
            yield 'an invalid RLE mask', f'{which}: {str(mask)[:60]}', entry


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_run_lengths(mask: Dict[str, Any], image: Dict[str, Any]) -> bool:
    """Whether a mask has the size of its image, and runs of pixels that fill it."""
    size, counts = mask.get('size'), mask.get('counts')
    if not (isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)):
        return False
    stated = [image.get('height', size[0]), image.get('width', size[1])]
    if isinstance(counts, str):  # compressed, in a code of the characters from 48 to 111
        return size == stated and bool(counts) and all('0' <= character <= 'o' for character in counts)
    return (size == stated and isinstance(counts, list) and all(type(run) is int and run >= 0 for run in counts)
            and sum(counts) == size[0] * size[1])


def _outside_of(image: Dict[str, Any]) -> Callable[[Sequence[float]], bool]:
    """Whether a polygon, as x1, y1, x2, y2, ..., has no part of an image."""
    sides = (image.get('width'), image.get('height'))
    return lambda polygon: any(isinstance(side, int) and (min(polygon[axis::2]) >= side or max(polygon[axis::2]) < 0)
                               for axis, side in enumerate(sides))


def _is_outside(box: Sequence[float], image: Dict[str, Any]) -> bool:
    """Whether a box, as x, y, width and height, has no part of an image, or is more than twice as long."""
    sides = (image.get('width'), image.get('height'))
    return any(isinstance(side, int) and (begin >= side or begin + length < 0 or length > 2 * side)
               for begin, length, side in zip(box, box[2:], sides))


def renumber_zero(metric: Any) -> None:
    """Give annotation 0 in the file of a metric another number.

    pycocotools and lvis store the number of the annotation that a prediction matches, and 0 where it matches none.

    Args:
        metric: A metric; those without such a file stay as they are.
    """
    for index in (getattr(metric, key, None) for key in ('_coco_api', '_lvis_api')):
        entry = index.anns.get(0) if isinstance(getattr(index, 'anns', None), dict) else None
        if isinstance(entry, dict):  # of panoptic segmentation it is a list
            entry['id'] = max(index.anns) + 1
            index.anns[entry['id']] = index.anns.pop(0)


def skip_wrong_annotations() -> None:
    """Make data sets and metrics of this process skip invalid annotations, and log their number."""
    from mmengine.logging import MMLogger
    from pycocotools.coco import COCO
    create_index = COCO.createIndex

    def create_index_without(coco: Any) -> None:
        wrong = list(wrong_annotations(coco.dataset))
        left_out = {id(annotation) for _, _, annotation in wrong}
        if left_out:
            coco.dataset['annotations'] = [entry for entry in coco.dataset['annotations'] if id(entry) not in left_out]
            for text in counted((what, where) for what, where, _ in wrong):
                MMLogger.get_current_instance().warning(f'Annotations left out: {text}')
        create_index(coco)

    COCO.createIndex = create_index_without


def is_whole(file: str) -> bool:
    """Whether a JSON file ends with the bracket that closes its first one."""
    with open(file, 'rb') as stream:
        head = stream.read(64).lstrip()[:1]
        stream.seek(max(0, osp.getsize(file) - 64))
        return (head, stream.read().rstrip()[-1:]) in ((b'{', b'}'), (b'[', b']'))


def needed_keys(built: Any, entry: Dict[str, Any], evaluator: Any) -> Sequence[str]:
    """The keys that each annotation needs for a data set and the metrics of its evaluator.

    Args:
        built: Class of the data set.
        entry: Its config.
        evaluator: Config of the evaluator, or None.
    """
    if getattr(getattr(built, 'parse_data_info', None), '__qualname__', '') != 'CocoDataset.parse_data_info':
        return ()
    masks = any(isinstance(step, dict) and step.get('with_mask') is True for step in entry.get('pipeline') or ())
    evaluated = 'CocoMetric' in repr(evaluator)  # pycocotools
    return (*(NEEDED if evaluated else NEEDED[:-1]), *['segmentation'] * masks)


def problems_of_file(file: str, path: str, where: str, most: float = 0, skip: bool = False,
                     needed: Sequence[str] = ()) -> Iterator[Problem]:
    """What is wrong with an annotation file.

    Args:
        file: Its path.
        path: Path in the config of the data set or metric that reads it, for the message.
        where: How to say where it is, if it does not exist.
        most: Size in bytes up to which its entries are looked at.
        skip: See `wrong_entries`.
        needed: See `wrong_entries`.
    """
    folder = osp.isdir(file) and not file.endswith('.json')  # some data sets read one
    if is_local(file) and not osp.isfile(file) and not folder:  # such as a pipe
        yield Problem(f'annotation file `{file}` {"is no file" if osp.exists(file) else "does not exist"} '
                      f'({path}.ann_file)', where)
    elif file.endswith('.json') and is_local(file) and not is_whole(file):
        with open(file, 'rb') as stream:
            begin = stream.read(16)
        yield Problem(f'annotation file `{file}` is empty or truncated, or no JSON in UTF-8 without a byte order mark '
                      f'({path}.ann_file){f": it begins with {begin!r}" * bool(begin)}',
                      'Copy or download it again, unpack it, or save it as JSON in UTF-8')
    elif is_local(file) and 0 < osp.getsize(file) <= most:
        with phase(f'reading `{file}` ({path}.ann_file)', 'Fix that file'):
            for what, can_skip in wrong_entries(file, skip, needed):
                others = ', or leave wrong annotations out: --skip-wrong-annotations' * can_skip
                yield Problem(f'`{file}` has {what}', f'Fix or remove them{others}')


def is_local(path: str) -> bool:
    """Whether a path is of the local file system, not of another backend of mmengine."""
    return '://' not in path and not path.startswith('s3:')
