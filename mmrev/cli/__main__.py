"""``python -m mmrev.cli``: the same as ``mmrev``."""
from mmrev.cli import main

raise SystemExit(main())
