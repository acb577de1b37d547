"""Convert a published checkpoint of a network with parameter-free layers into one that mmengine loads into mmrev's.

Examples:
    python tools/model_converters/pflayer_to_mmrev.py r50_hybrid.pth pf-resnet50-hybrid.pth
    python tools/model_converters/pflayer_to_mmrev.py vit_s_max.pth pf-vit-s-max.pth

The md5 of the published files is not known here; the network is recognized only by the names of its weights.
"""
import sys
from typing import List, Optional

from mmrev.cli import convert


def main(argv: Optional[List[str]] = None) -> int:
    """Convert the file that the command line names; returns the exit status."""
    return convert.main(argv, 'pflayer_to_mmrev.py', families=('parameter_free', ))


if __name__ == '__main__':
    sys.exit(main())
