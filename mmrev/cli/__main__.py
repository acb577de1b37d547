"""``python -m mmrev.cli``: the same as ``mmrev``."""
import sys

from mmrev.cli import main

sys.exit(main())
