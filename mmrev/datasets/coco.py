"""Facts from a COCO-format annotation file, without reading all of it."""
import json
import math
import mmap
import os.path as osp
from collections import Counter
from typing import Dict, Iterator, List, Optional, Sequence


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


def wrong_entries(file: str) -> Iterator[str]:
    """What a COCO-format file has that mmdet would leave out or train on in silence: counted, the first one named.

    Wrong types and missing keys are left to the reader of the data set, which fails there.
    """
    with open(file, encoding='utf-8') as stream:
        content = json.load(stream)
    parts = {part: [entry for entry in content.get(part) or () if isinstance(entry, dict)]
             for part in ('images', 'annotations', 'categories')} if isinstance(content, dict) else {}
    known = {part: Counter(str(entry.get('id')) for entry in entries) for part, entries in parts.items()}
    found: Dict[str, List[str]] = {}
    for part in parts:
        for name, number in known[part].items():
            if number > 1:
                found.setdefault(f'the same id in `{part}`', []).append(f'id {name}')
    for name, number in Counter(str(entry.get('name')) for entry in parts.get('categories', ())).items():
        if number > 1:
            found.setdefault('the same name in `categories`', []).append(f'`{name}`')
    for entry in parts.get('images', ()):
        sides = [entry.get(side, 1) for side in ('height', 'width')]
        if not all(isinstance(side, int) and side > 0 for side in sides):
            found.setdefault('sides that no image has', []).append(f'image {entry.get("id")}: {sides}')
    for entry in parts.get('annotations', ()):
        box, which = entry.get('bbox'), f'annotation {entry.get("id")}'
        for key, part in (('image_id', 'images'), ('category_id', 'categories')):
            if key in entry and str(entry[key]) not in known[part]:
                found.setdefault(f'an unknown `{key}`', []).append(f'{which}: {entry[key]!r}')
        if isinstance(box, list) and all(isinstance(value, (int, float)) for value in box):
            if len(box) != 4 or not all(map(math.isfinite, box)) or min(box[2:]) < 0:
                found.setdefault('a box that is none', []).append(f'{which}: {box}')
        mask = entry.get('segmentation')
        if isinstance(mask, list) and not all(isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0
                                              and all(isinstance(value, (int, float)) and math.isfinite(value)
                                                      for value in polygon) for polygon in mask):
            found.setdefault('a polygon that is none', []).append(which)
    for what, where in found.items():
        yield f'{len(where)} with {what}, first {where[0]}'


def is_whole(file: str) -> bool:
    """Whether a JSON file ends with the bracket that closes its first one."""
    with open(file, 'rb') as stream:
        head = stream.read(64).lstrip()[:1]
        stream.seek(max(0, osp.getsize(file) - 64))
        return (head, stream.read().rstrip()[-1:]) in ((b'{', b'}'), (b'[', b']'))
