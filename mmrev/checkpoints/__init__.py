"""Checkpoints: read safely, recognised, converted, and loaded by mmengine under the names that they are published by.

- `safe`: what `torch.load` may construct; mmengine's own checkpoints are allowed.
- `reading`: a file that nobody vouches for, and whether a checkpoint fits a model.
- `published`: the models of this package's metafiles, where their weights are published, and the hashes of the files.
- `families`: for each publisher, the names of its weights; the table that recognises, converts and checks them.
- `conversion`: any checkpoint of a family, to one that mmengine loads.
- `loaders`: the same while mmengine loads ``.pth.tar`` files and ``mmrev://NAME``.

Importing this package imports neither torch nor mmengine.
"""
from .loaders import (allow_when_needed, has_published_form, load_from_mmrev, load_from_published_file,
                      load_from_published_url, load_local)
from .reading import mismatch, read
from .safe import allow_mmengine_checkpoints, safe_globals

__all__ = ['allow_mmengine_checkpoints', 'allow_when_needed', 'has_published_form', 'load_from_mmrev',
           'load_from_published_file', 'load_from_published_url', 'load_local', 'mismatch', 'read', 'safe_globals']
