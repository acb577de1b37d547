"""Everything that mmrev registers in ``MODELS``."""
from . import backbones  # noqa: F401
