"""Everything that mmrev registers in ``MODELS``."""
from importlib.util import find_spec

from . import backbones, necks  # noqa: F401

if find_spec('mmpretrain') is not None:
    from . import heads, tta  # noqa: F401

if find_spec('mmseg') is not None:
    from . import decode_heads, segmentors  # noqa: F401
