"""Facts from a COCO-format annotation file, without reading all of it."""
import json
import mmap
import os.path as osp
from typing import Optional, Sequence


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


def is_whole(file: str) -> bool:
    """Whether a JSON file ends with the bracket that closes its first one."""
    with open(file, 'rb') as stream:
        head = stream.read(64).lstrip()[:1]
        stream.seek(max(0, osp.getsize(file) - 64))
        return (head, stream.read().rstrip()[-1:]) in ((b'{', b'}'), (b'[', b']'))
