"""Checkpoints: read them safely, recognize and convert them, and let mmengine load them by name.

- `safe`: what `torch.load` may construct; mmengine's own checkpoints are allowed.
- `reading`: reads an untrusted file, and compares a checkpoint with a model.
- `published`: the models of the metafiles, the addresses of their weights, and the hashes of the files.
- `families`: the names of each publisher's weights; a table that recognizes, converts and checks them.
- `conversion`: converts a checkpoint of any family into one that mmengine loads.
- `loaders`: does the same while mmengine loads ``.pth.tar`` files and ``mmrev://NAME``.

Importing this package imports neither torch nor mmengine.
"""
from .loaders import (allow_when_needed, has_published_form, load_any, load_from_mmrev,
                      load_from_published_file, load_from_published_url, load_local)
from .reading import mismatch, not_resumable, read
from .safe import allow_mmengine_checkpoints, safe_globals

__all__ = ['allow_mmengine_checkpoints', 'allow_when_needed', 'has_published_form', 'load_any', 'load_from_mmrev',
           'load_from_published_file', 'load_from_published_url', 'load_local', 'mismatch', 'not_resumable', 'read',
           'safe_globals']
