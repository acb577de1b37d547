"""Facts from a COCO-format annotation file, without reading all of it."""
import json
import math
import mmap
import os.path as osp
from collections import Counter
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

from mmrev.problems import Problem, phase


def category_names(file: str) -> Optional[Sequence[str]]:
    """The names in ``categories`` of a COCO-format file of any size, or None if it has none that can be read."""
    if not file.endswith('.json') or not osp.isfile(file):
        return None
    with open(file, 'rb') as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as text:
        begin = text.find(b'[', max(0, text.rfind(b'"categories"')))
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
                          f'({path})', f'Add or rename {", ".join(map(repr, missing[:5]))} in the categories of the '
                          'file, in the order of metainfo.classes (they need no objects)' if missing else
                          f'mmdet takes the order of the file: set metainfo=dict(classes={tuple(numbered)!r}) for each '
                          'data set')
            return


def wrong_entries(file: str, skipped: bool = False) -> Iterator[str]:
    """Entries of a COCO-format file that mmdet would silently skip or train on: their number, and the first one.

    Wrong types and missing keys are left to the reader of the data set, which fails there.

    Args:
        file: Its path.
        skipped: Whether wrong annotations will be left out, see `skip_wrong_annotations`; others cannot.
    """
    with open(file, encoding='utf-8') as stream:
        content = json.load(stream)
    yield from counted(wrong_descriptions(content) if skipped else (
        *wrong_descriptions(content), *((what, where) for what, where, _ in wrong_annotations(content))))


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
            for value, number in Counter(str(entry.get(key)) for entry in _entries(content, part)).items():
                if number > 1:
                    yield f'the same {key} in `{part}`', f'{key} {value}'
    for entry in _entries(content, 'annotations'):
        if not isinstance(entry.get('id', 0), (int, float)) or entry.get('id') != entry.get('id'):
            yield 'an id that is not a number', f'annotation {entry["id"]!r}'  # pycocotools computes with it
    for entry in _entries(content, 'images'):
        sides = [entry.get(side, 1) for side in ('height', 'width')]
        if not all(isinstance(side, int) and side > 0 for side in sides):
            yield 'an invalid width or height', f'image {entry.get("id")}: {sides}'


def wrong_annotations(content: Any) -> Iterator[Tuple[str, str, Dict[str, Any]]]:
    """What is wrong with an annotation, which one it is, and the annotation."""
    images = {_id(entry.get('id')): entry for entry in _entries(content, 'images')}
    categories = {_id(entry.get('id')) for entry in _entries(content, 'categories')}
    for entry in _entries(content, 'annotations'):
        box, mask, which = entry.get('bbox'), entry.get('segmentation'), f'annotation {entry.get("id")}'
        for key, known in (('image_id', images), ('category_id', categories)):
            if key in entry and _id(entry[key]) not in known:
                yield f'an unknown `{key}`', f'{which}: {entry[key]!r}', entry
        if isinstance(box, list) and all(isinstance(value, (int, float)) for value in box):
            if len(box) != 4 or not all(map(math.isfinite, box)) or min(box[2:]) < 0:
                yield 'an invalid box', f'{which}: {box}', entry
            elif _is_outside(box, images.get(_id(entry.get('image_id')), {})):
                yield 'a box outside of its image', f'{which}: {box}', entry
        if isinstance(entry.get('area'), (int, float)) and not 0 <= entry['area'] < math.inf:
            yield 'an invalid area', f'{which}: {entry["area"]}', entry
        if isinstance(mask, list) and not all(isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0
                                              and all(isinstance(value, (int, float)) and math.isfinite(value)
                                                      for value in polygon) for polygon in mask):
            yield 'an invalid polygon', which, entry


def _is_outside(box: Sequence[float], image: Dict[str, Any]) -> bool:
    """Whether a box, as x, y, width and height, has no part of an image, or is more than twice as long."""
    sides = (image.get('width'), image.get('height'))
    return any(isinstance(side, int) and (begin >= side or begin + length < 0 or length > 2 * side)
               for begin, length, side in zip(box, box[2:], sides))


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
